"""Recomputes outputs of VDM's published code."""
