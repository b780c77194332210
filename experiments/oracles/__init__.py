"""Every bound against the exact -log p(x), where the ideal denoiser is known."""
