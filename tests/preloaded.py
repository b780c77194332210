"""The imports of the program, done for processes that are forked (`tests.programs.Program`)."""

import importlib

for name in (
    "vdm.runs.train", "vdm.runs.run", "vdm.runs.compress", "vdm.data.prepare", "vdm.data.records",
    "vdm.data.digits", "tensorboardX", "tqdm", "matplotlib.pyplot", "tensorflow_datasets",
    "sklearn.datasets", "constriction",
):  # fmt: skip
    importlib.import_module(name)
