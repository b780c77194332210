"""Rung 5, the VDM: the DDPM trained on its bound, with noise levels (the SNR) learned as well.

There are three changes from rung 4. First, the network is trained on the bound itself. Then the
schedule is learned too (S2, "learning the diffusion noise parameters"; Kingma et al. 2021,
arXiv:2107.00630). Finally T goes to infinity, where the interior of the schedule no longer changes
the bound (section 5.1 there). The network predicts the noise, as in the papers; configs/digits.py
predicts codes, which is better for these data.
"""

from experiments.ladder.ddpm import NUM_LEVELS

FIXED = {"schedule.name": "linear", "schedule.kwargs.learn_ends": False, "schedule.train": "fixed"}
LEARNED = {"schedule.name": "monotone", "schedule.train": "variance"}
FINITE = {"model.num_steps": NUM_LEVELS - 1, "eval.num_steps": NUM_LEVELS - 1}
EPS = {"train.num_steps": 500, "network.kwargs.num_blocks": 1, "model.prediction": "eps"}

RUNGS = {
    f"vdm, T = {NUM_LEVELS}, fixed SNR": EPS | FINITE | FIXED,
    f"vdm, T = {NUM_LEVELS}, learned SNR": EPS | FINITE | LEARNED,
    "vdm, T = inf, fixed SNR": EPS | FIXED,
    "vdm, T = inf, learned SNR": EPS | LEARNED,
}
"""Name of a row -> the changes that turn configs/digits.py into that model."""
