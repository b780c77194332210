"""What a training step costs: time, memory, and its compilation."""
