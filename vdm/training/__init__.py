"""One optimisation step: state, optimiser, compiled step."""
