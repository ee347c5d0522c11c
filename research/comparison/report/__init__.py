"""Reports of comparisons, as markdown and HTML."""
