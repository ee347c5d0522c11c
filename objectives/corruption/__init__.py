"""How rows are taken apart: selection, spans, streams, pairs."""
