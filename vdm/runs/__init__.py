"""A run, which a config and a workdir define, and the modes of the program that act on it."""
