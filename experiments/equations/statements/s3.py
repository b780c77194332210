"""S3: the evidence bound on one page; S1 has all of it."""

from experiments.equations.index import spread

NUMBERED = [f"S3 {number}" for number in range(1, 5)]

STATEMENTS: dict[str, str] = {}

NOT_COMPUTABLE = spread(
    "S3",
    {
        "1 to 2": "as S1 1.1 and 1.2",
        "3": "as S1 1.9 to 1.16",
        "4": "as S1 1.18 to 1.20",
    },
)
