"""The program called in this process, with digits.py made tiny.

The model, the optimiser and the batch are those of `make_tiny_config`, so that what was compiled
for one is used by the other."""

from vdm import main as program

TINY = {
    "network.kwargs.width": 8, "network.kwargs.num_blocks": 0,
    "schedule.kwargs.hidden_features": 8, "train.num_devices": 2, "train.batch_size": 32,
    "eval.draws": 1, "sample.num_steps": 2, "sample.num_images": 4, "train.eval_every": 0,
    "optim.kwargs.decay": "none",
}  # fmt: skip


def command(workdir, **fields):
    """The flags of digits.py made tiny; fields as group__field."""
    fields = TINY | {name.replace("__", "."): value for name, value in fields.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["--config=configs/digits.py", f"--workdir={workdir}", *overrides]


def call(arguments, capsys):
    """(status, stdout, stderr) of the program in this process."""
    status = program.main(["vdm.main", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err
