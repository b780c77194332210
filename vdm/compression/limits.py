"""Permitted values in a file of compressed images. It imports nothing, so that a config's options
can be checked with it."""

ORDERS = ("bit_swap", "top_down")
"""The orders in which latents can be coded."""

KERNELS, DECODERS = ("gaussian", "mixture"), ("bayes", "network")
"""The reverse kernels and decoders with which images can be coded."""

MOST_STEPS, MOST_LANES, MOST_CELLS = 2**20, 2**16, 2**10
"""The largest values permitted in a file; its reader treats larger ones as damage."""
