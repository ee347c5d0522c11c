"""Devices, hosts, memory, files, clocks and terminals."""
