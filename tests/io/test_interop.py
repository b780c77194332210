import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from flax.core import FrozenDict

from vdm.api import load_config
from vdm.config.build import build_model, build_source
from vdm.io import interop
from vdm.io.checkpoints import CheckpointError

BLOCK = {"GroupNorm_0": "scale bias", "conv1": "kernel bias", "cond_proj": "kernel",
         "GroupNorm_1": "scale bias", "conv2": "kernel bias"}  # fmt: skip
ATTENTION = {
    "GroupNorm_0": "scale bias",
    **dict.fromkeys(("q", "k", "v", "proj_out"), "kernel bias"),
}


def published_shapes(n=32, layers=1, channels=3, everywhere=False, gamma="learnable_nnet"):
    """The arrays of the published network, written from its description only."""

    def shape(module, leaf, inputs):
        outputs = {"GroupNorm_0": inputs, "conv_out": channels}.get(module, n)
        if leaf != "kernel":
            return (4 * n,) if module.startswith("dense") else (outputs,)
        rows = {"conv2": n, "cond_proj": 4 * n}.get(module, inputs)
        return ((3, 3) if module.startswith("conv") else ()) + (rows, outputs)

    def modules(names, inputs):
        return {m: {leaf: shape(m, leaf, inputs) for leaf in leaves.split()}
                for m, leaves in names.items()}  # fmt: skip

    net = modules({"conv_in": "kernel bias"}, 5 * channels)
    net |= modules({"GroupNorm_0": "scale bias", "conv_out": "kernel bias"}, n)
    net["dense0"] = {"kernel": (n + 1, 4 * n), "bias": (4 * n,)}
    net["dense1"] = {"kernel": (4 * n, 4 * n), "bias": (4 * n,)}
    net |= {"mid.block_1": modules(BLOCK, n), "mid.block_2": modules(BLOCK, n)}
    net["mid.attn_1"] = modules(ATTENTION, n)
    for i in range(layers):
        net[f"down.block_{i}"] = modules(BLOCK, n)
    for i in range(layers + 1):
        net[f"up.block_{i}"] = modules(BLOCK | {"nin_shortcut": "kernel bias"}, 2 * n)
    if everywhere:
        net |= {f"down.attn_{i}": modules(ATTENTION, n) for i in range(layers)}
        net |= {f"up.attn_{i}": modules(ATTENTION, n) for i in range(layers + 1)}
    schedule = {
        "fixed": {},
        "learnable_scalar": {"gamma": {"w": (1,), "b": (1,)}},
        "learnable_nnet": {"gamma": {
            "l1": {"kernel": (1, 1), "bias": (1,)},
            "l2": {"kernel": (1, 1024), "bias": (1024,)},
            "l3": {"kernel": (1024, 1)},
        }},
    }[gamma]  # fmt: skip
    return {"score_model": net} | schedule


def filled(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def our_shapes(n=32, layers=1, everywhere=False, schedule="vdm_nnet"):
    config = load_config("configs/cifar10.py", "published")
    config.data = {"name": "synthetic", "kwargs": {"shape": (4, 4, 3), "num_codes": 256},
                   "data_dir": "", "holdout": 0}  # fmt: skip
    config.schedule.name = schedule
    config.schedule.kwargs.learn_ends = False
    config.network.kwargs.width, config.network.kwargs.num_blocks = n, layers
    config.network.kwargs.attention = "all" if everywhere else "middle"
    model = build_model(config, build_source(config.data))
    return jax.eval_shape(model.init, jax.random.key(0))


def train_state(params, ema_params, step):
    """A train state of the published code, which clu writes with flax.serialization.to_bytes."""
    params, ema_params = FrozenDict(params), FrozenDict(ema_params)
    state = {"step": step, "params": params, "ema_params": ema_params}
    return state | {"opt_state": optax.adamw(1e-3).init(params)}


@pytest.fixture(scope="module")
def trees():
    return filled(published_shapes(), 0), filled(published_shapes(), 1)


@pytest.fixture
def folder(tmp_path, trees):
    """A folder checkpoints-0 with saves 9 and 10, and TensorFlow's own files."""
    place = tmp_path / "run" / "checkpoints-0"
    place.mkdir(parents=True)
    for name, trees_of, step in (
        ("ckpt-9", trees[::-1], 9000),
        ("ckpt-10", trees, np.int32(10000)),
    ):
        (place / f"{name}.flax").write_bytes(serialization.to_bytes(train_state(*trees_of, step)))
        (place / f"{name}.index").write_bytes(b"tf")
    (place / "checkpoint").write_text('model_checkpoint_path: "ckpt-10"\n')
    return place


@pytest.mark.parametrize("name", ["", "..", "ckpt-10", "ckpt-10.flax"])
def test_the_newest_save_is_read_from_any_way_to_name_it(folder, trees, name):
    path = (folder / name).resolve()
    assert interop.is_published(path)
    step, found = interop.read_published(path, {"params": our_shapes(), "ema_params": our_shapes()})
    assert step == 10000
    assert jax.tree.structure(found["params"]) == jax.tree.structure(our_shapes())
    for field, tree in zip(("params", "ema_params"), trees, strict=True):
        network = found[field]["network"]
        for ours, theirs in [
            (network["conditioning"]["dense_1"]["kernel"], ("dense1", "kernel")),
            (network["down_0"]["conv_1"]["kernel"], ("down.block_0", "conv2", "kernel")),
            (network["middle_0_attention"]["value"]["bias"], ("mid.attn_1", "v", "bias")),
            (network["middle_1"]["cond"]["kernel"], ("mid.block_2", "cond_proj", "kernel")),
            (network["up_1"]["shortcut"]["kernel"], ("up.block_1", "nin_shortcut", "kernel")),
            (network["norm_out"]["scale"], ("GroupNorm_0", "scale")),
        ]:
            want = tree["score_model"]
            for key in theirs:
                want = want[key]
            np.testing.assert_array_equal(ours, want)
        l2 = tree["gamma"]["l2"]["kernel"]
        np.testing.assert_array_equal(found[field]["schedule"]["l2"]["kernel"], l2)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))


def test_an_older_save_is_read_by_its_name_and_only_the_wanted_fields(folder, trees):
    step, found = interop.read_published(folder / "ckpt-9.flax", {"params": our_shapes()})
    assert step == 9000
    assert set(found) == {"params"}
    bias = found["params"]["network"]["conv_in"]["bias"]
    np.testing.assert_array_equal(bias, trees[1]["score_model"]["conv_in"]["bias"])


def test_files_of_flax_training_checkpoints_are_found_too(tmp_path, trees):
    content = serialization.to_bytes(train_state(*trees, 7))
    (tmp_path / "checkpoint_7").write_bytes(content)
    assert interop.read_published(tmp_path, {"params": our_shapes()})[0] == 7


def test_big_arrays_in_chunks_are_joined(tmp_path, trees, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 1 << 12)
    (tmp_path / "ckpt-1.flax").write_bytes(serialization.to_bytes(train_state(*trees, 1)))
    _, found = interop.read_published(tmp_path, {"params": our_shapes()})
    want = trees[0]["score_model"]["dense1"]["kernel"]
    np.testing.assert_array_equal(
        found["params"]["network"]["conditioning"]["dense_1"]["kernel"], want
    )


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize(
    ("gamma", "schedule"),
    [("fixed", "linear"), ("learnable_scalar", "vdm_scalar"), ("learnable_nnet", "vdm_nnet")],
)
def test_both_trees_have_the_same_arrays_and_names_go_there_and_back(gamma, schedule, everywhere):
    theirs = filled(published_shapes(layers=2, gamma=gamma, everywhere=everywhere), 0)
    like = our_shapes(layers=2, everywhere=everywhere, schedule=schedule)
    ours = interop.from_published(theirs, like)
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, like)
    back = interop.to_published(ours)
    assert jax.tree.structure(back) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, back, theirs)


def test_the_published_config_has_the_arrays_of_the_public_checkpoint():
    config = load_config("configs/cifar10.py", "published")
    model = build_model(config, build_source(config.data))
    theirs = interop.to_published(jax.eval_shape(model.init, jax.random.key(0)))
    want = published_shapes(128, 32, gamma="learnable_scalar")
    assert jax.tree.map(lambda leaf: leaf.shape, theirs) == want
    with pytest.raises(ValueError, match=":published, not 'publishd'"):
        load_config("configs/cifar10.py", "publishd")


def test_no_two_rules_meet():
    for side in zip(*interop.RULES, strict=True):
        assert len(set(side)) == len(side)


def test_the_arrays_take_dtype_and_sharding_of_like(folder):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=sharding), our_shapes()
    )
    _, found = interop.read_published(folder, {"params": like})
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding == sharding
        assert leaf.dtype == jnp.bfloat16


def refusal(path, like=None):
    with pytest.raises(CheckpointError) as caught:
        interop.read_published(path, like or {"params": our_shapes()})
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_another_depth_is_refused_with_what_is_missing_and_unexpected(folder):
    message = refusal(folder, {"params": our_shapes(layers=2)})
    assert "20 missing: score_model/down.block_1/GroupNorm_0/bias" in message
    assert "and 12 more" in message
    message = refusal(folder, {"params": our_shapes(layers=0)})
    assert "20 unexpected: score_model/down.block_0/GroupNorm_0/bias" in message


def test_another_schedule_and_width_are_refused(folder):
    message = refusal(folder, {"params": our_shapes(schedule="vdm_scalar")})
    assert "2 missing: gamma/b, gamma/w; 5 unexpected: gamma/l1/bias" in message
    message = refusal(folder, {"params": our_shapes(n=64)})
    assert "of other shape: score_model/GroupNorm_0/bias [32] there and [64] here" in message
    assert "configs/cifar10.py:published" in message


def test_an_array_without_a_rule_is_named(trees):
    strange = {"score_model": trees[0]["score_model"] | {"dense9": {"kernel": np.zeros(3)}}}
    with pytest.raises(ValueError, match="1 unexpected: score_model/dense9/kernel"):
        interop.from_published(strange)
    with pytest.raises(ValueError, match="does not have network/conditioning/label/embedding"):
        interop.to_published({"network": {"conditioning": {"label": {"embedding": np.zeros(3)}}}})


def test_what_is_no_checkpoint_of_theirs_is_refused_in_one_line(folder, tmp_path, trees):
    whole = (folder / "ckpt-10.flax").read_bytes()
    cases = {
        "cut.flax": (whole[: len(whole) // 2], "cut short"),
        "text.flax": (b"not a checkpoint", "not a msgpack of flax|not a train state"),
        "empty.flax": (b"", "not a msgpack of flax"),
        "array.flax": (serialization.to_bytes([np.zeros(3)]), "has no step"),
        "bare.flax": (serialization.to_bytes(trees[0]), "has no step"),
        "nothing.flax": (serialization.to_bytes({"step": 3, "params": {}}), "has no params"),
    }
    for name, (content, pattern) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=pattern):
            interop.read_published(tmp_path / name, {"params": our_shapes()})
    assert "has no ema_params" in refusal(tmp_path / "nothing.flax", {"ema_params": our_shapes()})
    assert "does not hold a checkpoint" in refusal(tmp_path / "nowhere")


def test_our_own_checkpoints_are_not_theirs(tmp_path):
    step = tmp_path / "checkpoints" / "30"
    step.mkdir(parents=True)
    (step / "leaves.json").write_text("{}")
    for path in (tmp_path, tmp_path / "checkpoints", step, tmp_path / "nowhere"):
        assert not interop.is_published(path)
