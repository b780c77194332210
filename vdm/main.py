r"""Train, evaluate and sample variational diffusion models.

python -m vdm.main --config=configs/digits.py --workdir=runs/digits
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=eval
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=sample
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=classifier
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=compress \
    --input=images.npy --output=images.vdm

--config=FILE[:ARG]    a Python file with get_config([ARG]) -> ConfigDict; anywhere; or the
                       config.json of a workdir
--config.a.b=VALUE     another value for one field of it
--workdir=DIR          what the run writes; the same command again resumes
--mode=MODE            train (default: train, then evaluate and sample), eval, sample, compress,
                       decompress, or classifier: trains one of noisy examples, for samples guided
                       by it
--input=PATH           compress: an .npy of codes, or a folder of pictures; decompress: the file
--output=PATH          compress: the file; decompress: an .npy, or a new folder for PNGs
--init_from=PATH       the parameters of another workdir or checkpoint, or of a checkpoint of the
                       published VDM: where training starts, or what is evaluated or sampled
--accept_new_data      train, classifier: resume although the training data have changed since
--print_config[=FORM]  print the config and exit: every field with its meaning; FORM changes: what
                       differs from the defaults, for a config file; FORM json: as config.json
--debug                a traceback instead of one line for a mistake
"""

# Nothing heavy is imported at the top: --help and --print_config answer at once.
import contextlib
import os
import re
import signal
import sys
import threading
import traceback
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from vdm.config.flags import Given, check, parse, read_given
from vdm.config.listing import FORMS
from vdm.io.deadline import deadline
from vdm.io.errors import Terminated, describe, is_own_message, own_frame
from vdm.io.streams import forgiving, quiet_orbax


def _stopped() -> str:
    """What is said after a signal."""
    if any(argument.startswith(("--mode=compress", "--mode=decompress")) for argument in sys.argv):
        return "stopped; nothing was written"
    return "stopped; the same command goes on from what is saved"


ENDED = (
    "; if another process of this run has ended, start all of them again: they go on from the "
    "newest checkpoint"
)

GRACE_SECS = 5
"""From a signal until the program ends the hard way."""


@forgiving()
def main(argv: list[str]) -> int:
    """The program; returns its exit status: 0, 2 for a user's mistake, 1 for a failed run,
    128 + the signal's number when asked to stop."""
    if any(a in ("-h", "--help", "-help", "--helpfull") for a in argv[1:]) or len(argv) == 1:
        print(__doc__.strip())
        return 0
    listening = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _terminate) if listening else None
    options = None
    try:
        with deadline(GRACE_SECS, _end):
            options = parse(argv)
            return run(options, read_given(argv))
    except (KeyboardInterrupt, Terminated) as stop:
        # Nothing half-written stays: every file is written beside its place and renamed.
        print(_stopped(), flush=True)
        return leave(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))
    except Exception as error:
        status = 2 if isinstance(error, ValueError | OSError) else 1
        several = is_one_of_several()
        # A fault of ours has its traceback at once: the run may have taken hours.
        debug = is_debug(argv) or (status == 1 and (several or own_frame(error) is None))
        if debug and not several:
            raise
        if debug:
            traceback.print_exc()
        if not (debug and status == 2):
            line = describe(error, options.config.to_dict() if options else {})
            found = own_frame(error) and not is_own_message(error)
            remedy = "; --debug shows the traceback" if found else ""
            if several and status == 1:
                line, remedy = line[:300], ENDED
            print(f"error: {line}{remedy}", file=sys.stderr)
        return leave(status)
    finally:
        if listening:
            signal.signal(signal.SIGTERM, previous)


def is_debug(argv: list[str]) -> bool:
    """Whether tracebacks are wanted."""
    return any(re.fullmatch(r"--?debug(=(true|1|yes))?", a, re.IGNORECASE) for a in argv)


def is_one_of_several() -> bool:
    """Whether this process has joined others."""
    joined = sys.modules.get("vdm.devices.processes")
    return joined is not None and joined.has_joined()


def leave(status: int) -> int:
    """The exit status; where there are other processes, this one ends here."""
    return sys.modules["vdm.devices.processes"].leave(status) if is_one_of_several() else status


def _terminate(signum: int, frame: Any) -> None:
    # What is raised in a callback of the garbage collector, and JAX has one, is printed and
    # forgotten: the run went on to its end (seen in tests/faults/kills.py) until the deadline.
    raise Terminated


def _end(signum: int) -> None:
    with contextlib.suppress(OSError):
        os.write(1, f"{_stopped()}\n".encode())  # print may be what was interrupted
    os._exit(128 + signum)


def run(options: flags.FlagValues, given: Given) -> int:
    """Does what the flags say; given: what of the config was given, and where."""
    config: ConfigDict = options.config
    if options.print_config:
        print(FORMS[options.print_config](config))
        return 0
    check(options)

    from vdm.devices import processes

    processes.initialize()  # before anything starts a backend

    import jax
    import jax.numpy as jnp

    from vdm.config.given import check_given, check_ode
    from vdm.config.options import read
    from vdm.devices import sharding
    from vdm.io.console import say
    from vdm.runs.run import open_run
    from vdm.training import loop
    from vdm.training.metrics import NonFiniteError

    if jnp.result_type(float) == jnp.float64:
        jax.config.update("jax_enable_x64", False)
        say("JAX_ENABLE_X64 is set and ignored: models here are float32")
    sharding.split_host(read(config).train.num_devices)
    opened = open_run(config, options.workdir, options.init_from)
    is_new = not opened.checkpoints.steps()  # what a run was trained with cannot be left out now
    check_given(config, given.fields, given.own_file and is_new)
    if options.mode in ("train", "eval"):  # others evaluate nothing
        check_ode(opened.options.eval, opened.estimator, opened.model, given.fields)
    try:
        run_mode(options, opened)
    except loop.Interrupted as stop:
        say(str(stop))
        return 128 + stop.signum
    except NonFiniteError as error:
        steps = opened.checkpoints.steps()
        kept = (
            f"the last good checkpoint is {opened.checkpoints.path(steps[-1])}; with a smaller "
            "learning rate start another --workdir, perhaps by --init_from"
            if steps
            else "there is no checkpoint yet: try a smaller learning rate"
        )
        if options.mode == "classifier":
            kept = "choose a smaller --config.classifier.learning_rate and delete its folder"
        if processes.is_first():
            print(f"error: {error}; {kept}", file=sys.stderr)
        return 1
    return 0


def run_mode(options: flags.FlagValues, opened: Any) -> None:
    """What --mode names, done to the opened run."""
    from vdm.runs import classifier, compress, evaluate, sample, train

    if options.mode == "train":
        train.train(opened, options.init_from, options.accept_new_data)
    elif options.mode == "eval":
        evaluate.evaluate_run(opened, options.init_from)
    elif options.mode == "classifier":
        classifier.train_classifier(opened, options.init_from, options.accept_new_data)
    elif options.mode == "compress":
        compress.compress(opened, options.input, options.output, options.init_from)
    elif options.mode == "decompress":
        compress.decompress(opened, options.input, options.output, options.init_from)
    else:
        sample.sample_run(opened, options.init_from)


if __name__ == "__main__":
    quiet = quiet_orbax()  # to the end: its threads outlive a save that failed
    quiet.__enter__()
    status = main(sys.argv)
    # Asked to stop: a usual end waits for what the devices still compute; one of several processes
    # has to wait for the others, which its sudden end would abort.
    if status > 128 and not is_one_of_several():
        os._exit(status)  # main has emptied the streams, which may be closed
    sys.exit(status)
