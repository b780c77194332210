"""S0: a translation of Luo 2022 as far as hierarchical VAEs; S1 has all of it."""

from experiments.equations.index import spread

NUMBERED = [*(f"S0 {number}" for number in range(2, 16)), "S0 6.1"]

STATEMENTS: dict[str, str] = {}

NOT_COMPUTABLE = spread(
    "S0",
    {
        "2": "as S1 1.2",
        "3 to 4": "as S1 1.6",
        "5": "as S1 1.3 to 1.6",
        "6": "as S1 1.9 to 1.16",
        "6.1": "as S1 1.15",
        "7": "as S1 1.18 to 1.20",
        "8": "as S1 1.21 and 1.22",
        "9": "as S1 1.24, without 1/L; see the errata",
        "10 to 11": "as S1 1.25",
        "12": "as S1 1.26",
        "13": "as S1 1.27",
        "14": "as S1 1.28 to 1.31",
        "15": "as S1 1.32",
    },
)
