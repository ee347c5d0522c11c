"""Data: from a corpus to batches of clean tokens.

corpora -> tokenizer -> token store -> loader

`run_data.load` builds the first three, or finds them in the cache; `loader` yields
batches.
"""
