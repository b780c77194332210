"""The denoising and the consistency form of the bound, and the formula as printed."""
