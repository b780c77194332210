"""What the numbered equations say, in our words and our notation; one file for each source.

Each file has two dictionaries with ids such as "S1 1.63" as keys:
  STATEMENTS: what is computed; at least one test with the id's marker must exist.
  NOT_COMPUTABLE: why there is no test of its own: a definition, a step of a derivation ...
and NUMBERED, all ids of the source; each is in exactly one of the two.
"""

from importlib import import_module
from pkgutil import iter_modules

STATEMENTS: dict[str, str] = {}
NOT_COMPUTABLE: dict[str, str] = {}
NUMBERED: list[str] = []
for _file in iter_modules(__path__):
    _words = import_module(f"{__name__}.{_file.name}")
    STATEMENTS |= _words.STATEMENTS
    NOT_COMPUTABLE |= _words.NOT_COMPUTABLE
    NUMBERED += _words.NUMBERED
