"""The plain values of a config, and which fields it may have."""

import pytest

from vdm.config import defaults, options


def test_a_note_beside_the_groups_is_left_alone_and_a_misspelt_group_is_refused():
    config = defaults.get_config()
    config.why = "the third try"
    assert options.resolve(config)[0].why == "the third try"
    config.comprss = {"lanes": 2}
    with pytest.raises(ValueError, match=r"has comprss, which is not a field; did you mean 'compr"):
        options.read(config)
