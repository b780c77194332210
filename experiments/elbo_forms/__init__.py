"""Denoising and consistency form of the bound, and the formula as printed."""
