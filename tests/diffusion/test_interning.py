import pytest

from vdm.config import registry
from vdm.diffusion.grids import karras
from vdm.diffusion.interning import interned
from vdm.diffusion.samplers import ancestral, ddim


def test_equal_arguments_give_the_same_object_however_they_are_given():
    assert ddim() is ddim(0.0) is ddim(eta=0.0)
    assert ddim() is not ddim(1.0)
    assert ancestral("forward") is ancestral(last_noise=True, variance="forward")
    assert karras() is karras(7.0)


def test_arguments_of_another_type_or_without_a_hash_give_an_object_of_their_own():
    made = interned(lambda size: [size])
    assert [type(made(one)[0]) for one in (1, 1.0, True)] == [int, float, bool]
    assert made([2]) == [[2]]
    with pytest.raises(TypeError, match="unexpected keyword argument 'etta'"):
        ddim(etta=1.0)


@pytest.mark.parametrize("table", [registry.SAMPLERS, registry.GRIDS], ids=["samplers", "grids"])
def test_every_component_of_a_compiled_sampler_is_made_once(table):
    for name, constructor in table.items():
        assert constructor() is constructor(), name
