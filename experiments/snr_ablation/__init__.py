"""An ablation of end points, Fourier features and the objective of the schedule."""
