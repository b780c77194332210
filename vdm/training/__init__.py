"""One optimisation step: state, optimiser, compiled step; what is logged of it, and when."""
