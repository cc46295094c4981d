"""Losses as pure functions, one idea a file; usable alone, from a notebook."""
