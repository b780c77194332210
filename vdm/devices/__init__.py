"""Devices and meshes, several processes as one run, and random keys."""
