"""One straight loop and its parts."""
