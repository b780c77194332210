import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdm.io.atomic import to_json
from vdm.io.canonical import canonical, canonical_text, with_tuples

NUMBERS = st.one_of(
    st.integers(-(2**53), 2**53), st.floats(), st.booleans(), st.none(),
    st.integers(-99, 99).map(np.int64), st.floats(width=32).map(np.float32),
)  # fmt: skip
VALUES = st.recursive(
    NUMBERS | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_what_is_saved_and_read_again_has_the_same_form(value):
    saved = json.loads(json.dumps(to_json(value)))
    assert canonical(saved) == canonical(value)
    assert canonical_text(with_tuples(saved)) == canonical_text(value)
    assert canonical(canonical(value)) == canonical(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((), []),
        (((1, 2), (3,)), [[1, 2], [3]]),
        (1, 1.0),
        (True, 1),
        (-0.0, 0),
        (np.float64(0.1), 0.1),
        (np.int32(5), 5.0),
        (np.bool_(True), True),
        (np.array([1, 2]), (1.0, 2.0)),
        ({1: (2,)}, {"1": [2.0]}),
        (float("inf"), None),
        (1e300, 10**300 + int(1e300) - 10**300),
    ],
)
def test_equal_values_have_one_form(one, other):
    assert canonical_text({"a": one}) == canonical_text({"a": other})


@pytest.mark.parametrize(
    ("one", "other"), [(0.1, np.float32(0.1)), (1, 1 + 2**-50), ([1], 1), ("1", 1), ([], None)]
)
def test_other_values_have_another(one, other):
    assert canonical_text(one) != canonical_text(other)
