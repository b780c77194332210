"""What training the schedule costs a step."""
