"""Networks and schedules: flax.linen modules, used as pure functions of their parameters."""
