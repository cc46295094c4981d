"""Flax modules, one idea a file."""
