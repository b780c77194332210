"""One trained model under five schedules."""
