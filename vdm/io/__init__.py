"""What a run leaves on disk: checkpoints, metrics, pictures; a kill never leaves half a file."""
