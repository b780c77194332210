r"""Train, evaluate and sample variational diffusion models.

python -m vdm.main --config=configs/digits.py --workdir=runs/digits
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=eval
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=sample
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=classifier
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=compress \
    --input=images.npy --output=images.vdm

--config=FILE[:ARG]    a Python file anywhere with get_config([ARG]) -> ConfigDict, or the
                       config.json of a workdir
--config.a.b=VALUE     sets one field of the config
--workdir=DIR          folder that the run writes to; the same command again resumes the run
--mode=MODE            train (default; also evaluates and samples at the end), eval, sample,
                       compress, decompress, or classifier: train a classifier of noisy examples,
                       which can guide samples
--input=PATH           compress: an .npy of codes, or a folder of pictures; decompress: the
                       compressed file
--output=PATH          compress: the file to write; decompress: an .npy, or a new folder for PNGs
--init_from=PATH       another workdir or checkpoint, or a checkpoint of the published VDM: its
                       parameters are where training starts, or are evaluated or sampled
--accept_new_data      train, classifier: resume although the training data have changed
--print_config[=FORM]  print the config and exit: every field with its meaning; FORM changes: only
                       what differs from the defaults, ready for a config file; FORM json: in the
                       form of config.json
--debug                show a traceback for mistakes, instead of one line
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
    """Returns the message after a signal stopped the program."""
    if any(argument.startswith(("--mode=compress", "--mode=decompress")) for argument in sys.argv):
        return "stopped; nothing was written"
    return "stopped; the same command resumes from what is saved"


ENDED = (
    "; if another process of this run has ended, start all of them again: they resume from the "
    "newest checkpoint"
)

GRACE_SECS = 5
"""The time after a signal until the program is ended by force."""


@forgiving()
def main(argv: list[str]) -> int:
    """Runs the program and returns its exit status: 0, 2 for a user's mistake, 1 for a failed run,
    128 + the signal's number after a signal."""
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
        # No file is left half-written: each is written under another name and then renamed.
        print(_stopped(), flush=True)
        return leave(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))
    except Exception as error:
        status = 2 if isinstance(error, ValueError | OSError) else 1
        several = is_one_of_several()
        # An error in this code shows its traceback at once, as the run may have taken hours.
        debug = is_debug(argv) or (status == 1 and (several or own_frame(error) is None))
        if debug and not several:
            raise
        if debug:
            traceback.print_exc()
        if not (debug and status == 2):
            line = describe(error, options.config.to_dict() if options else {})
            has_traceback = own_frame(error) and not is_own_message(error)
            remedy = "; --debug shows the traceback" if has_traceback else ""
            if several and status == 1:
                line, remedy = line[:300], ENDED
            print(f"error: {line}{remedy}", file=sys.stderr)
        return leave(status)
    finally:
        if listening:
            signal.signal(signal.SIGTERM, previous)


def is_debug(argv: list[str]) -> bool:
    """Returns whether the command line asks for tracebacks."""
    return any(re.fullmatch(r"--?debug(=(true|1|yes))?", a, re.IGNORECASE) for a in argv)


def is_one_of_several() -> bool:
    """Returns whether this process has joined others."""
    joined = sys.modules.get("vdm.devices.processes")
    return joined is not None and joined.has_joined()


def leave(status: int) -> int:
    """Returns the exit status; if there are other processes, ends this process instead."""
    return sys.modules["vdm.devices.processes"].leave(status) if is_one_of_several() else status


def _terminate(signum: int, frame: Any) -> None:
    # An exception raised in a callback of the garbage collector (JAX has one) is printed and
    # dropped. Before there was a deadline, such a run continued to its end (tests/faults/kills.py).
    raise Terminated


def _end(signum: int) -> None:
    with contextlib.suppress(OSError):
        os.write(1, f"{_stopped()}\n".encode())  # the signal may have interrupted print
    os._exit(128 + signum)


def run(options: flags.FlagValues, given: Given) -> int:
    """Does what the flags say and returns the exit status. given: the values the user chose."""
    config: ConfigDict = options.config
    if options.print_config:
        print(FORMS[options.print_config](config))
        return 0
    check(options)

    from vdm.devices import processes

    processes.initialize()  # before a backend starts

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
    is_new = not opened.checkpoints.steps()  # a run that exists cannot change these
    check_given(config, given.fields, given.own_file and is_new)
    if options.mode in ("train", "eval"):  # other modes evaluate nothing
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
            "learning rate start another --workdir, perhaps with --init_from"
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
    """Applies --mode to the opened run."""
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
    quiet = quiet_orbax()  # until the end: its threads outlive a failed save
    quiet.__enter__()
    status = main(sys.argv)
    # After a signal, a normal exit would wait for what the devices still compute. One of several
    # processes has to wait, because its sudden end would abort the others.
    if status > 128 and not is_one_of_several():
        os._exit(status)  # main has flushed the streams, which may be closed
    sys.exit(status)
