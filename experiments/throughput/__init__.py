"""The cost of a training step: time, memory, and compilation."""
