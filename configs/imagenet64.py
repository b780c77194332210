"""VDM with a learned SNR on ImageNet 64 x 64 (256 codes): the paper's network and settings.

Data      two versions that cannot be compared, from files of the user's own:
          python -m vdm.data.prepare imagenet64_old --from=FOLDER   (49,999 validation images)
          python -m vdm.data.prepare imagenet64_new --from=FOLDER   (50,000; ...py:new)
Command   python -m vdm.main --config=configs/imagenet64.py --workdir=runs/imagenet64
Cost      238 M parameters, 2 M steps of batch 512; the paper had 128 TPU v3 chips. Not run
          by us.
Paper     3.40 bits/dim on the old version (VDM, arXiv:2107.00630, Table 1); the paper's, not ours
"""

from ml_collections import ConfigDict

from vdm.config import defaults


def get_config(version: str = "old") -> ConfigDict:
    """The hyper-parameters of the VDM paper, appendix B, for one of the two versions."""
    if version not in ("old", "new"):
        raise ValueError(f"configs/imagenet64.py takes :old or :new, not {version!r}")
    config = defaults.get_config()
    config.data.name = f"imagenet64_{version}"
    config.network.kwargs.update(width=256, num_blocks=64, dropout=0.0)
    config.train.update(num_steps=2_000_000, batch_size=512)
    config.eval.draws = 1
    return config
