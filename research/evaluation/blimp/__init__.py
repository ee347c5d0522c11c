"""BLiMP: minimal pairs, zero-shot."""
