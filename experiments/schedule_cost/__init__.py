"""The cost of training the schedule."""
