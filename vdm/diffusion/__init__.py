"""The mathematics of variational diffusion: pure functions of arrays.

omega = -log SNR throughout (the VDM paper's gamma, minus the lambda of other papers);
alpha^2 = sigmoid(-omega), sigma^2 = sigmoid(omega). Everything is in nats per example.
"""
