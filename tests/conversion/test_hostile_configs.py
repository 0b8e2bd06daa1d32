"""Configs that mean harm, in metadata and beside weights: used, or refused with a clear error, whatever they say."""

from __future__ import annotations

import copy
import json
import tracemalloc

import pytest
from helpers.autoencoders import tiny_autoencoder
from helpers.checkpoints import official_config, official_tensors, tiny_transformer
from helpers.headers import Header
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ltx_diffusers.conversion.describe import describe
from ltx_diffusers.errors import CheckpointError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 70)
    | st.sampled_from(
        [2**31, 2**63, 2**64, 10**300, 1e300, -1.0, 0.5, "", "res_x", "compress_all", "Uniform"]
    )
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
fuzz = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def places(value, path=()):
    """Paths to everything in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def changed(config, path, value):
    """A config with another value at a path."""
    if not path:
        return value
    config = copy.deepcopy(config)
    holder = config
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return config


def describe_or_refuse(source) -> None:
    """Everything but a `CheckpointError` is a failure."""
    try:
        describe(source, undecided_ok=True)
    except CheckpointError as error:
        assert len(str(error)) < 2000


@pytest.fixture(scope="module", params=["0.9.0", "0.9.5"])
def official(request):
    """Shapes and config of a tiny official file."""
    models = tiny_transformer(request.param == "0.9.5"), tiny_autoencoder(request.param)
    shapes = {name: tuple(tensor.shape) for name, tensor in official_tensors(*models).items()}
    return shapes, json.loads(json.dumps(official_config(*models, request.param)))


@fuzz
@given(data=st.data())
def test_any_change_of_an_official_config(official, data):
    shapes, config = official
    path = data.draw(st.sampled_from(list(places(config))))
    text = json.dumps(changed(config, path, data.draw(json_values)))
    describe_or_refuse(Header(shapes, {"config": text}))


@fuzz
@given(data=st.data())
@pytest.mark.parametrize("kind", ["transformer", "vae"])
def test_any_change_of_a_component_s_config(kind, data):
    model = tiny_transformer(True) if kind == "transformer" else tiny_autoencoder("0.9.5")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    config = json.loads(json.dumps({key: value for key, value in model.config.items() if key[0] != "_"}))
    path = data.draw(st.sampled_from(list(places(config))))
    source = Header(shapes)
    value = changed(config, path, data.draw(json_values))
    source.config = value if isinstance(value, dict) else {}
    describe_or_refuse(source)


@fuzz
@given(data=st.data())
def test_any_settings_of_our_own(official, data):
    """What this library notes in the metadata for itself."""
    shapes, config = official
    noted = {
        "transformer": {"default_height": 64},
        "vae": {"layers_per_block": [1, 1, 1, 1, 1]},
        "scheduler": {"schedule": "uniform"},
        "release": {"name": "0.9.5"},
    }
    path = data.draw(st.sampled_from(list(places(noted))))
    text = json.dumps(changed(noted, path, data.draw(json_values)))
    describe_or_refuse(Header(shapes, {"config": json.dumps(config), "ltx_diffusers": text}))


@fuzz
@given(
    st.dictionaries(st.text(max_size=40), st.lists(st.integers(0, 9), max_size=5), max_size=5),
    st.text(max_size=5),
)
def test_any_names_and_shapes(shapes, version):
    names = (
        "model.diffusion_model.patchify_proj.weight",
        "encoder.conv_in.conv.weight",
        "initial_conv.weight",
    )
    for count in range(len(names) + 1):
        more = {name: [] for name in (*names[:count], "upsampler.0.weight", "scale_shift_table")}
        described = {name: tuple(shape) for name, shape in (shapes | more).items()}
        describe_or_refuse(Header(described, {"config": version}))
        describe_or_refuse(Header(described))


def test_a_deep_vae_isn_t_built():
    """Layers that the file has no tensors for are refused before they are built."""
    model = tiny_autoencoder("0.9.5")
    source = Header({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    source.config = dict(model.config) | {"layers_per_block": [10**5] * 5}
    with pytest.raises(CheckpointError, match="asks for other layers than there are"):
        describe(source)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 2**15, "attention_head_dim": 2**4, "cross_attention_dim": 2**19},
        {"num_layers": 2**19},
        {"num_layers": -1},
        {"in_channels": 2**19},
    ],
)
def test_a_huge_transformer_takes_no_memory(change):
    shapes = {name: tuple(tensor.shape) for name, tensor in official_tensors(tiny_transformer(True)).items()}
    config = official_config(tiny_transformer(True))
    config["transformer"] |= change
    source = Header(shapes, {"config": json.dumps(config)})
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        describe(source)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_a_huge_schedule_isn_t_built():
    model = tiny_transformer(True)
    shapes = {name: tuple(tensor.shape) for name, tensor in official_tensors(model).items()}
    config = official_config(model, release="0.9.5")
    config["scheduler"]["num_train_timesteps"] = 10**12
    with pytest.raises(CheckpointError, match="absurd number: num_train_timesteps"):
        describe(Header(shapes, {"config": json.dumps(config)}))
