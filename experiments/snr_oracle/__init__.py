"""The learned schedule against the best one, which is known for Gaussian data."""
