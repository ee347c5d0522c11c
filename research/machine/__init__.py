"""Devices, hosts, memory, files and clocks."""
