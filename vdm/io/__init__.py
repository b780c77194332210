"""Files of a run (checkpoints, metrics, pictures), written so that a kill never leaves half a file,
and what the user sees on the terminal."""
