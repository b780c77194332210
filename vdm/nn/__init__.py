"""Networks and schedules: flax.linen modules, used as pure functions of their parameters.

`vdm.diffusion` lists the papers that docstrings cite by abbreviation.
"""
