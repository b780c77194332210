"""Numbers and pictures from trained parameters."""
