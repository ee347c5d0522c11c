"""Examples shown as text, and statistics of corruption as tables."""
