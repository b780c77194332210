"""The ladder of latent-variable models, from the Gaussian mixture to the VDM and beyond."""
