"""Networks and schedules: flax.linen modules, used as pure functions of their parameters.

The papers that docstrings name by letters are listed in `vdm.diffusion`.
"""
