"""Training: the state, the optimiser, the compiled step, and the loop that takes the steps."""
