"""Devices, processes and keys."""
