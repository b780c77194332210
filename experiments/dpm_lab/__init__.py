"""The DPM laboratory: one-dimensional densities on a grid, for which every claim can be
computed."""
