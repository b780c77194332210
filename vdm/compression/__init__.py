"""Lossless compression of images, to files about as large as the bound says."""
