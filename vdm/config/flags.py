"""The command line of `vdm.main`: parses its flags and reports mistakes in one line."""

# Nothing heavy is imported: --help and --print_config answer at once.
import ast
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from vdm.config.files import load_config
from vdm.config.listing import FORMS
from vdm.config.options import complete
from vdm.io.places import check_local

CONFIG_FLAGS = ("--config=", "-config=")

MODES = ("train", "eval", "sample", "classifier", "compress", "decompress")


class UsageError(ValueError):
    """The command line cannot be understood."""


def define_flags(config: ConfigDict, argv: Sequence[str]) -> flags.FlagValues:
    """Defines the flags, one for each config field in argv among them, without parsing them."""
    defined = flags.FlagValues()
    config_flags.DEFINE_config_dict(
        "config", config, "the config", flag_values=defined, sys_argv=list(argv)
    )
    flags.DEFINE_string("workdir", None, "folder that the run writes to", flag_values=defined)
    flags.DEFINE_string("mode", "train", " or ".join(MODES), flag_values=defined)
    flags.DEFINE_string("init_from", None, "parameters to start from", flag_values=defined)
    flags.DEFINE_string(
        "input", None, "file or folder to compress or decompress", flag_values=defined
    )
    flags.DEFINE_string("output", None, "file or folder to write", flag_values=defined)
    flags.DEFINE_bool("accept_new_data", False, "resume with other data", flag_values=defined)
    flags.DEFINE_enum("print_config", None, list(FORMS), "print the config", flag_values=defined)
    flags.DEFINE_bool("debug", False, "tracebacks", flag_values=defined)
    return defined


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Parses a command line. UsageError, in one line, if it cannot be understood."""
    argv = joined(argv)
    files = config_places(argv)
    if not files:
        raise UsageError("--config is missing: --config=configs/digits.py is the usual start")
    config = read_config(files[-1])
    argv = [_with_form(a) for a in argv if not a.startswith(CONFIG_FLAGS) and not _is_off(a)]
    argv = take_own_kwargs(config, argv)
    before = ConfigDict(config.to_dict())
    try:
        options = define_flags(config, argv)
        rest = options(argv)[1:]
    except flags.IllegalFlagValueError as error:
        raise UsageError(wrong_value(before, error)) from error
    except flags.Error as error:
        raise UsageError(str(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(unknown_field(before, argv, error)) from error
    if rest:
        raise UsageError(f"{rest[0]!r} is not a flag: give values as --flag=value")
    return options


def _with_form(argument: str) -> str:
    """Completes `--print_config` with the first form of `vdm.config.listing`."""
    if re.fullmatch(r"--?print_config(=(true|t|1|yes|y))?", argument, re.IGNORECASE):
        return f"--print_config={next(iter(FORMS))}"
    return argument


def _is_off(argument: str) -> bool:
    """Whether the argument says that no config is to be printed."""
    off = r"--?(noprint_config|print_config=(false|f|0|no|n))"
    return re.fullmatch(off, argument, re.IGNORECASE) is not None


def config_places(argv: Sequence[str]) -> list[str]:
    """Returns the values of --config; the last one counts."""
    return [a.partition("=")[2] for a in joined(argv) if a.startswith(CONFIG_FLAGS)]


def check(options: flags.FlagValues) -> None:
    """Raises UsageError if --mode, --workdir, --input or --output is missing or contradicts the
    other flags."""
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


def joined(argv: Sequence[str]) -> list[str]:
    """Rewrites `--config FILE` as `--config=FILE`."""
    result: list[str] = []
    for argument in argv:
        if result and result[-1] in ("--config", "-config"):
            result[-1] = f"--config={argument}"
        else:
            result.append(argument)
    return result


class Given(NamedTuple):
    """Which values of the config the user chose.

    fields: those set on the command line, such as "optim.name". own_file: whether the others come
    from a Python file, and not from the config.json that a run saved.
    """

    fields: set[str]
    own_file: bool


def read_given(argv: Sequence[str]) -> Given:
    """Returns which values of the config the command line sets."""
    matches = (re.match(r"--?(?:no)?config\.([\w.]+)", argument) for argument in argv)
    saved = any(place.endswith(".json") for place in config_places(argv)[-1:])
    return Given({match[1] for match in matches if match}, not saved)


def read_config(place: str) -> ConfigDict:
    """Reads the config of FILE[:ARG], before overrides. A workdir's config.json, which an earlier
    version may have written, is completed with the fields it lacks."""
    if Path(place).is_file():  # its name may contain a colon
        config = load_config(place)
    else:
        path, colon, argument = place.partition(":")
        config = load_config(path, *([argument] if colon else []))
    return complete(config) if place.endswith(".json") else config


def take_own_kwargs(config: ConfigDict, argv: Sequence[str]) -> list[str]:
    """Moves --config.GROUP.kwargs.KEY=VALUE from argv into the config if GROUP.name is a component
    of the user's own, whose kwargs no config lists. Returns the other arguments."""
    known, rest = fields(config), []
    for argument in argv:
        match = re.fullmatch(r"--?config\.(([\w.]+)\.kwargs)\.(\w+)=(.*)", argument, re.DOTALL)
        if not match or match[1] not in known or f"{match[1]}.{match[3]}" in known:
            rest.append(argument)
            continue
        name = ([""] + [a.partition("=")[2] for a in argv if re.match(
            rf"--?config\.{re.escape(match[2])}\.name=", a)])[-1]  # fmt: skip
        group: Any = config
        for part in match[2].split("."):
            group = group[part]
        if ":" in (name or str(group.get("name"))):
            group.kwargs[match[3]] = literal(match[4])
        else:
            rest.append(argument)
    return rest


def literal(text: str) -> Any:
    """Returns the value of a Python literal, or the text itself if it is not one."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def unknown_field(config: ConfigDict, argv: Sequence[str], error: Exception) -> str:
    """Returns a message that names the unknown field of an override, and the nearest known one."""
    known = fields(config)
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            near = difflib.get_close_matches(match[1], known, n=1, cutoff=0.5)
            group, inside, key = match[1].partition(".kwargs.")
            hint = f"did you mean --config.{near[0]}?" if near else "see --print_config"
            if inside and group in known:
                own = (
                    f"a component of your own takes it as --config.{group}.kwargs.{key}=VALUE "
                    f"beside --config.{group}.name=package.module:Thing"
                )
                hint = f"{hint} Or {own}" if near and near[0] not in group + inside else own
            return f"the config has no field {match[1]!r}; {hint}"
    return f"the command line cannot be understood: {type(error).__name__}: {error}"


def wrong_value(config: ConfigDict, error: Exception) -> str:
    """Returns a message that names the override whose value has the wrong type, and what it
    expects."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if not match:
        return str(error)
    value: Any = config
    for part in match[1].split("."):
        value = value[part]
    if isinstance(value, ConfigDict):
        inner = "name" if "name" in value else next(iter(value), "FIELD")
        expected = f"a group; did you mean --config.{match[1]}.{inner}={match[2]}?"
    else:
        expected = f"{type(value).__name__}, such as {value!r}"
    return f"--config.{match[1]}={match[2]}: expected {expected}"


def fields(config: Any, prefix: str = "") -> list[str]:
    """Returns every dotted name in a config, including those of groups."""
    names = []
    for key, value in config.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, ConfigDict):
            names += fields(value, f"{prefix}{key}.")
    return names
