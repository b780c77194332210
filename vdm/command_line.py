"""The flags of `vdm.main`: what a command line means, and one line for a mistake in it."""

# Nothing heavy is imported: --help and --print_config answer at once.
import difflib
import re
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from vdm.config_files import find_config_file
from vdm.places import check_local

MODES = ("train", "eval", "sample", "classifier", "compress", "decompress")


class UsageError(ValueError):
    """The command line cannot be understood."""


def define_flags() -> flags.FlagValues:
    """The flags, not parsed yet."""
    defined = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "the config file", flag_values=defined)
    flags.DEFINE_string("workdir", None, "what the run writes", flag_values=defined)
    flags.DEFINE_string("mode", "train", " or ".join(MODES), flag_values=defined)
    flags.DEFINE_string("init_from", None, "parameters to start from", flag_values=defined)
    flags.DEFINE_string("input", None, "what is compressed", flag_values=defined)
    flags.DEFINE_string("output", None, "where it is written", flag_values=defined)
    flags.DEFINE_bool("accept_new_data", False, "resume with other data", flag_values=defined)
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


def check(options: flags.FlagValues) -> None:
    """UsageError where --mode, --workdir, --input or --output is missing, or does not go with the
    others."""
    if options.mode not in MODES:
        raise UsageError(f"unknown --mode={options.mode}; known: {', '.join(MODES)}")
    if not options.workdir:
        raise UsageError("--workdir is missing: name the folder that the run writes to")
    for name in ("workdir", "init_from", "input", "output"):
        check_local(f"--{name}", options[name].value)
    if options.accept_new_data and options.mode not in ("train", "classifier"):
        raise UsageError("--accept_new_data is for --mode=train and --mode=classifier")
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


def joined(argv: list[str]) -> list[str]:
    """`--config FILE` as `--config=FILE`."""
    result: list[str] = []
    for argument in argv:
        if result and result[-1] in ("--config", "-config"):
            result[-1] = f"--config={argument}"
        else:
            result.append(argument)
    return result


def given_fields(argv: list[str]) -> set[str]:
    """The fields of the config that the command line gives a value, such as "optim.name"."""
    found = (re.match(r"--?(?:no)?config\.([\w.]+)", argument) for argument in argv)
    return {match[1] for match in found if match}


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
