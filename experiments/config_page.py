"""The page of all fields, configs/README.md, from vdm/config/defaults.py.

python -m experiments.config_page   (make results)
"""

import sys
from pathlib import Path

from vdm.config import defaults, listing
from vdm.io.streams import write

PAGE = Path(__file__).parent.parent / "configs/README.md"
HEAD = """# Every field of a config

Made by `make results` from the comments in [defaults.py](../vdm/config/defaults.py): change those,
not this page. A test compares the two.

The defaults are the VDM paper's CIFAR-10 run. A file in this folder has the defaults and what
differs from them; the comment at its top says what it trains, on which data, with which command, at
what cost and with what result. A file of your own may lie anywhere:

```python
from vdm.config import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "digits"
    config.model.prediction = "codes"
    config.train.num_steps = 2000
    return config
```

`python -m vdm.main --config=mine.py --print_config` prints every field of it with its meaning,
`--print_config=changes` prints the assignments that turn the defaults into it, and
`--print_config=json` what a run writes to `config.json`. `--config.train.num_steps=500` on the
command line changes a field. A misspelt field is refused, on the command line and in a file.

A component is a `name` and its `kwargs`. The `kwargs` below are those of every built-in component:
to switch components, change only the name. Where a meaning begins with names and a colon, such as
`folder, npy:`, only these components take the keyword argument; the others ignore it, and refuse a
value that you gave yourself. A keyword argument that is left out has the default of its component.

A component of your own is named `package.module:Thing` ([how to write one](../vdm/README.md)). Its
keyword arguments are set in the file, `config.schedule.kwargs.init_mix = 1.0`, or on the command
line, `--config.schedule.kwargs.init_mix=1`; its name may stand in either place.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(render())
    write(sys.stdout, f"wrote {PAGE}\n")


def render() -> str:
    """The page: a table for each group of fields."""
    fields, groups = listing.flatten(defaults.get_config().to_dict()), listing.group_meanings()
    parts, rows = [HEAD], {"": []} | {group: [] for group in groups}
    for field, meaning in listing.meanings().items():
        group = field.partition(".")[0]
        line = f"| `{field}` | `{fields[field]!r}` | {meaning} |".replace("$", "\\$")
        rows[group if group in groups else ""].append(line)
    for group, lines in rows.items():
        if group:
            parts.append(f"## {group}\n\n{groups[group]}")
        parts.append("| Field | Default | Meaning |\n| --- | --- | --- |\n" + "\n".join(lines))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


if __name__ == "__main__":
    main()
