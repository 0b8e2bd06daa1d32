"""Repositories in Diffusers' layout, in all the ways in which their weights are stored and placed."""

from __future__ import annotations

import diffusers
import pytest
import torch
from helpers.checkpoints import same_tensors
from tiny import tiny_components

from ltx_diffusers import AutoencoderKLLTX, LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.conversion.describe import describe
from ltx_diffusers.conversion.tensors import open_tensors

MODELS = {"transformer": LTXTransformer3DModel, "vae": AutoencoderKLLTX}
FORMS = {
    "plain": {},
    "sharded": {"max_shard_size": "30KB"},
    "variant": {"variant": "fp16"},
    "sharded variant": {"variant": "fp16", "max_shard_size": "30KB"},
    "pickled": {"safe_serialization": False},
}


@pytest.fixture(scope="module", params=[False, True], ids=["0.9.1", "0.9.5"])
def repos(request, tmp_path_factory):
    """What Diffusers saves, in every form, of one kind of release."""
    pipeline = diffusers.LTXPipeline(
        **tiny_components(timestep_conditioning=True, causal=request.param, ours=False, statistics=True)
    )
    folders = {}
    for form, options in FORMS.items():
        folders[form] = tmp_path_factory.mktemp(form.replace(" ", "-"))
        pipeline.save_pretrained(folders[form], **options)
    return pipeline, folders


@pytest.mark.parametrize("form", FORMS)
def test_a_pipeline_is_loaded_from_every_form(repos, form):
    saved, folders = repos
    if "sharded" in form:
        assert len(list((folders[form] / "transformer").glob("*.safetensors"))) > 1
    options = {name: value for name, value in FORMS[form].items() if name == "variant"}
    loaded = LTXPipeline.from_pretrained(folders[form], **options)
    for name, cls in MODELS.items():
        assert type(getattr(loaded, name)) is cls
        assert same_tensors(getattr(loaded, name), getattr(saved, name))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("form", FORMS)
def test_a_component_is_loaded_from_every_form(repos, form, kind):
    saved, folders = repos
    options = {name: value for name, value in FORMS[form].items() if name == "variant"}
    loaded = MODELS[kind].from_pretrained(folders[form], subfolder=kind, **options)
    assert same_tensors(loaded, getattr(saved, kind))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("form", FORMS)
def test_a_component_is_described_from_every_form(repos, form, kind):
    """So that it can be converted; the transformer's release by the VAE in the folder next to it."""
    saved, folders = repos
    options = {"variant": "fp16"} if "variant" in form else {}
    with open_tensors(folders[form] / kind, allow_pickle=form == "pickled", **options) as source:
        found = describe(source)
        assert found.layout == "diffusers"
        part = found.part(kind)
        state = getattr(saved, kind).state_dict()
        assert part.names.keys() == state.keys()
        assert all(torch.equal(source.load(part.names[name]), state[name]) for name in state)
    if kind == "transformer":
        causal = "LTXVideo095DownBlock3D" in saved.vae.config.down_block_types
        assert part.config["causal_temporal_positioning"] == causal


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_precision_may_have_both_names(repos, name):
    _, folders = repos
    loaded = LTXPipeline.from_pretrained(folders["plain"], **{name: torch.bfloat16})
    assert {loaded.transformer.dtype, loaded.vae.dtype} == {torch.bfloat16}
    assert (
        LTXTransformer3DModel.from_pretrained(
            folders["plain"], subfolder="transformer", **{name: torch.float16}
        ).dtype
        == torch.float16
    )


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, {"proj_in": "cpu", "": "cpu"}])
def test_a_model_is_placed_by_a_device_map(repos, device_map):
    saved, folders = repos
    loaded = LTXTransformer3DModel.from_pretrained(
        folders["sharded"], subfolder="transformer", device_map=device_map
    )
    assert same_tensors(loaded, saved.transformer)
    assert loaded.device.type == "cpu"


def test_a_model_is_placed_in_parts(repos, tmp_path):
    """Some blocks in memory, the others on the disk until they are used."""
    saved, folders = repos
    names = [name for name, _ in saved.transformer.named_children()]
    device_map = dict.fromkeys(names, "cpu") | {"transformer_blocks.1": "disk", "transformer_blocks.0": "cpu"}
    del device_map["transformer_blocks"]
    device_map["scale_shift_table"] = "cpu"
    loaded = LTXTransformer3DModel.from_pretrained(
        folders["sharded"], subfolder="transformer", device_map=device_map, offload_folder=tmp_path
    )
    assert loaded.transformer_blocks[1].attn1.to_q.weight.is_meta
    inputs = {
        "hidden_states": torch.randn(1, 4, 8),
        "encoder_hidden_states": torch.randn(1, 5, 16),
        "timestep": torch.tensor([500.0]),
        "encoder_attention_mask": torch.ones(1, 5),
        "num_frames": 1,
        "height": 2,
        "width": 2,
        "return_dict": False,
    }
    scale = {"rope_interpolation_scale": (8 / 25, 32, 32)}
    with torch.no_grad():
        output, expected = loaded(**inputs, **scale)[0], saved.transformer(**inputs, **scale)[0]
    torch.testing.assert_close(output, expected)
