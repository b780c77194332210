"""The main job on the digits, with three seeds."""
