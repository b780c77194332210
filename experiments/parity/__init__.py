"""Vectors of VDM's published code, recomputed."""
