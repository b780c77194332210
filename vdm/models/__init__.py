"""Models: pure functions of their parameters, tied into a bound."""
