"""Train, evaluate and sample variational diffusion models.

python -m vdm.main --config=configs/digits.py --workdir=runs/digits
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=eval
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=sample
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=classifier
python -m vdm.main --config=configs/digits.py --workdir=runs/digits --mode=compress \
    --input=images.npy --output=images.vdm

--config=FILE[:ARG]    a Python file with get_config([ARG]) -> ConfigDict; anywhere
--config.a.b=VALUE     another value for one field of it
--workdir=DIR          what the run writes; the same command again resumes
--mode=MODE            train (default: train, then evaluate and sample), eval, sample, compress,
                       decompress, or classifier: trains one of noisy examples, for samples guided
                       by it
--input=PATH           compress: an .npy of codes, or a folder of pictures; decompress: the file
--output=PATH          compress: the file; decompress: an .npy, or a new folder for PNGs
--init_from=PATH       the parameters of another workdir or checkpoint, or of a checkpoint of the
                       published VDM: where training starts, or what is evaluated or sampled
--print_config         print the resolved config and exit
--debug                a traceback instead of one line for a mistake
"""

# Nothing heavy is imported at the top: --help and --print_config answer at once.
import difflib
import json
import os
import re
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vdm.config_files import find_config_file

MODES = ("train", "eval", "sample", "classifier", "compress", "decompress")


def _stopped() -> str:
    """What is said after a signal."""
    if any(argument.startswith(("--mode=compress", "--mode=decompress")) for argument in sys.argv):
        return "stopped; nothing was written"
    return "stopped; the same command goes on from what is saved"


class UsageError(ValueError):
    """The command line cannot be understood."""


GRACE_SECS = 5
"""From SIGTERM until the program ends the hard way."""


class Terminated(BaseException):
    """SIGTERM outside the training loop, which saves first. As KeyboardInterrupt no Exception:
    the libraries below catch those to try something else."""


def main(argv: list[str]) -> int:
    """The program; returns its exit status: 0, 2 for a user's mistake, 1 for a failed run,
    128 + the signal's number when asked to stop."""
    if any(a in ("-h", "--help", "-help", "--helpfull") for a in argv[1:]) or len(argv) == 1:
        print(__doc__.strip())
        return 0
    listening = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, _terminate) if listening else None
    try:
        return run(parse(argv))
    except (ValueError, OSError) as error:
        if any(re.fullmatch(r"--?debug(=(true|1|yes))?", a, re.IGNORECASE) for a in argv):
            if not is_one_of_several():
                raise
            traceback.print_exc()
        else:
            print(f"error: {one_line(error)}", file=sys.stderr)
        return leave(2)
    except (KeyboardInterrupt, Terminated) as stop:
        # Nothing half-written stays: every file is written beside its place and renamed.
        print(_stopped(), flush=True)
        return leave(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))
    except Exception as error:
        if not is_one_of_several():
            raise
        traceback.print_exc()
        print(
            f"error: {one_line(error)[:300]}; if another process of this run has ended, start all "
            "of them again: they go on from the newest checkpoint",
            file=sys.stderr,
        )
        return leave(1)
    finally:
        if listening:
            signal.alarm(0)
            signal.signal(signal.SIGTERM, previous)


def is_one_of_several() -> bool:
    """Whether this process has joined others."""
    joined = sys.modules.get("vdm.distributed")
    return joined is not None and joined.has_joined()


def leave(status: int) -> int:
    """The exit status; where there are other processes, this one ends here."""
    return sys.modules["vdm.distributed"].leave(status) if is_one_of_several() else status


def _terminate(signum: int, frame: Any) -> None:
    # What is raised in a callback of the garbage collector, and JAX has one, is printed and
    # forgotten: the run went on to its end (seen in tests/faults/kills.py).
    signal.signal(signal.SIGALRM, _end)
    signal.alarm(GRACE_SECS)
    raise Terminated


def _end(signum: int, frame: Any) -> None:
    os.write(1, f"{_stopped()}\n".encode())  # print may be what was interrupted
    os._exit(128 + signal.SIGTERM)


def run(options: flags.FlagValues) -> int:
    """Does what the flags say."""
    config: ConfigDict = options.config
    if options.print_config:
        print(json.dumps(config.to_dict(), indent=2))
        return 0
    if options.mode not in MODES:
        raise UsageError(f"unknown --mode={options.mode}; known: {', '.join(MODES)}")
    if not options.workdir:
        raise UsageError("--workdir is missing: name the folder that the run writes to")
    _check_places(options)

    from vdm import distributed

    distributed.initialize()  # before anything starts a backend

    from vdm import archives, loops
    from vdm.io.console import say
    from vdm.run import open_run
    from vdm.training.metrics import NonFiniteError

    opened = open_run(config, options.workdir)
    try:
        if options.mode == "train":
            loops.train(opened, options.init_from)
        elif options.mode == "eval":
            loops.evaluate_run(opened, options.init_from)
        elif options.mode == "classifier":
            loops.train_classifier(opened, options.init_from)
        elif options.mode == "compress":
            archives.compress(opened, options.input, options.output, options.init_from)
        elif options.mode == "decompress":
            archives.decompress(opened, options.input, options.output, options.init_from)
        else:
            loops.sample_run(opened, options.init_from)
    except loops.Interrupted as stop:
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
        if distributed.is_first():
            print(f"error: {error}; {kept}", file=sys.stderr)
        return 1
    return 0


def _check_places(options: flags.FlagValues) -> None:
    """--input and --output are there where they are needed, and nowhere else."""
    needed = options.mode in ("compress", "decompress")
    for name in ("input", "output"):
        place = options[name].value
        if needed and not place:
            raise UsageError(f"--mode={options.mode} needs --{name}=PATH (see --help)")
        if place and not needed:
            raise UsageError(f"--{name} is for --mode=compress and --mode=decompress")
    if needed and not Path(options.input).exists():
        raise UsageError(f"--input={options.input} is not there")
    if needed and Path(options.input).absolute() == Path(options.output).absolute():
        raise UsageError("--input and --output are the same: name another --output")


def define_flags() -> flags.FlagValues:
    """The flags, not parsed yet."""
    defined = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "the config file", flag_values=defined)
    flags.DEFINE_string("workdir", None, "what the run writes", flag_values=defined)
    flags.DEFINE_string("mode", "train", " or ".join(MODES), flag_values=defined)
    flags.DEFINE_string("init_from", None, "parameters to start from", flag_values=defined)
    flags.DEFINE_string("input", None, "what is compressed", flag_values=defined)
    flags.DEFINE_string("output", None, "where it is written", flag_values=defined)
    flags.DEFINE_bool("print_config", False, "print the config and exit", flag_values=defined)
    flags.DEFINE_bool("debug", False, "tracebacks", flag_values=defined)
    return defined


def parse(argv: list[str]) -> flags.FlagValues:
    """The flags of a command line; UsageError, one line, for what cannot be understood."""
    argv = [find_config(a) for a in joined(argv)]
    if not any(a.startswith("--config=") for a in argv):
        raise UsageError("--config is missing: --config=configs/digits.py is the usual start")
    # config_flags looks for overrides in sys.argv, not in what it is given.
    sys.argv = argv
    options = define_flags()
    try:
        rest = options(argv)[1:]
    except flags.IllegalFlagValueError as error:
        text = re.sub(r"^flag --config=.*?parsing config file: \w+: ", "", str(error), flags=re.S)
        raise UsageError(wrong_value(argv, error) if text == str(error) else text) from error
    except flags.Error as error:
        raise UsageError(str(error)) from error
    except (AttributeError, KeyError) as error:  # a field that the config does not have
        raise UsageError(unknown_field(argv, error)) from error
    except (SyntaxError, NameError, TypeError, ImportError) as error:
        raise UsageError(f"the config file fails: {type(error).__name__}: {error}") from error
    if rest:
        raise UsageError(f"{rest[0]!r} is no flag: values are given as --flag=value")
    if not isinstance(options.config, ConfigDict):
        raise UsageError("get_config() of the config file must return an ml_collections.ConfigDict")
    return options


def joined(argv: list[str]) -> list[str]:
    """`--config FILE` as `--config=FILE`."""
    result: list[str] = []
    for argument in argv:
        if result and result[-1] in ("--config", "-config"):
            result[-1] = f"--config={argument}"
        else:
            result.append(argument)
    return result


def find_config(argument: str) -> str:
    """--config=FILE[:ARG] with FILE found also when it is beside the package, not here."""
    match = re.fullmatch(r"--?config=([^:]*)(:.*)?", argument)
    if not match:
        return argument
    return f"--config={find_config_file(Path(match[1]))}{match[2] or ''}"


def plain_config(argv: list[str]) -> ConfigDict:
    """The config without overrides."""
    sys.argv = [argv[0], next(a for a in argv if a.startswith("--config="))]
    options = define_flags()
    options(sys.argv)
    return options.config


def unknown_field(argv: list[str], error: Exception) -> str:
    """Names the override that the config has no field for, and the nearest field."""
    try:
        known = fields(plain_config(argv))
    except (AttributeError, KeyError):  # not an override, then
        return f"the config file fails: {type(error).__name__}: {error}"
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            near = difflib.get_close_matches(match[1], known, n=1, cutoff=0.5)
            hint = f"did you mean --config.{near[0]}?" if near else "see --print_config"
            return f"the config has no field {match[1]!r}; {hint}"
    return f"the config file fails: {type(error).__name__}: {error}"


def wrong_value(argv: list[str], error: Exception) -> str:
    """Names the override whose value has the wrong type, and what is expected."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
    if not match:
        return str(error)
    value: Any = plain_config(argv)
    for part in match[1].split("."):
        value = value[part]
    if isinstance(value, ConfigDict):
        inner = "name" if "name" in value else next(iter(value))
        expected = f"a group; did you mean --config.{match[1]}.{inner}={match[2]}?"
    else:
        expected = f"{type(value).__name__}, such as {value!r}"
    return f"--config.{match[1]}={match[2]}: expected {expected}"


def fields(config: Any, prefix: str = "") -> list[str]:
    """Every dotted name in a config, groups included."""
    names = []
    for key, value in config.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, ConfigDict):
            names += fields(value, f"{prefix}{key}.")
    return names


def one_line(error: BaseException) -> str:
    """An error's text, line breaks and tracebacks inside it left out."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = re.sub(r"Traceback \(most recent call last\):.*\n(?=\S)", "", text, flags=re.DOTALL)
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main(sys.argv))
