"""What a file of compressed images may say. Imports nothing: the options of a config are checked by
it."""

ORDERS = ("bit_swap", "top_down")
"""In which order the latents are coded."""

MOST_STEPS, MOST_LANES, MOST_CELLS = 2**20, 2**16, 2**10
"""The most that a file of compressed images may say: its reader takes more for damage."""
