"""Every bound compared with the exact -log p(x), for data whose ideal denoiser is known."""
