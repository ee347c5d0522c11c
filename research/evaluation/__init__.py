"""Held-out loss, GLUE, SQuAD, BLiMP."""
