"""VDM with a learned SNR on ImageNet 32 x 32 (256 codes): the paper's network and settings.

Data      two versions that cannot be compared, from files of the user's own:
          python -m vdm.data.prepare imagenet32_old --from=FOLDER   (49,999 validation images)
          python -m vdm.data.prepare imagenet32_new --from=FOLDER   (50,000; ...py:new)
Command   python -m vdm.main --config=configs/imagenet32.py --workdir=runs/imagenet32
Cost      122 M parameters, 2 M steps of batch 512; the paper had 32 TPU v3 chips. Not run
          by us.
Paper     3.72 bits/dim on the old version (VDM, arXiv:2107.00630, Table 1); the paper's, not ours
"""

from ml_collections import ConfigDict

from vdm.config import defaults


def get_config(version: str = "old") -> ConfigDict:
    """The hyper-parameters of the VDM paper, appendix B, for one of the two versions."""
    if version not in ("old", "new"):
        raise ValueError(f"configs/imagenet32.py takes :old or :new, not {version!r}")
    config = defaults.get_config()
    config.data.name = f"imagenet32_{version}"
    config.network.kwargs.update(width=256, dropout=0.0)
    config.train.update(num_steps=2_000_000, batch_size=512)
    config.eval.draws = 1
    return config
