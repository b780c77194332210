"""Lossless compression: the bound as the size of a file."""
