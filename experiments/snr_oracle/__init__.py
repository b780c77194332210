"""The learned schedule compared with the best one, which is known for Gaussian data."""
