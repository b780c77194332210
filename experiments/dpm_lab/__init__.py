"""The DPM laboratory: one-dimensional densities on a grid, where every claim can be computed."""
