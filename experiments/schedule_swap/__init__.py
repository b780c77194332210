"""One trained model evaluated with five schedules."""
