"""Models: pure functions of their parameters, and the bound that they compute."""
