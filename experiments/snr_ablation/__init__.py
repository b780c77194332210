"""End points, Fourier features and what the schedule is trained for."""
