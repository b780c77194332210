"""The main job on the digits, three seeds."""
