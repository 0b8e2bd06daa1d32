"""Telling what files hold by their names, JSON files and tensor names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_diffusers.errors import InputError
from ltx_diffusers.hub.contents import check_file_name, describe_files


def describe(jsons: dict[str, dict], tensors: dict[str, list[str]], *others: str) -> tuple:
    found = describe_files([*jsons, *tensors, *others], jsons.__getitem__, tensors.__getitem__)
    return found.kind, found.layout, found.part


PIPELINE = {
    "_class_name": "LTXPipeline",
    "transformer": ["ltx_diffusers", "LTXTransformer3DModel"],
    "vae": ["ltx_diffusers", "AutoencoderKLLTX"],
    "tokenizer": [None, None],
}
UPSAMPLING = {
    "_class_name": "LTXLatentUpsamplePipeline",
    "latent_upsampler": ["ltx_diffusers", "LTXLatentUpsampler"],
    "vae": ["ltx_diffusers", "AutoencoderKLLTX"],
}
IN_TREE = PIPELINE | {
    "transformer": ["diffusers", "LTXVideoTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLLTXVideo"],
}


@pytest.mark.parametrize(
    ("jsons", "tensors", "expected"),
    [
        ({"model_index.json": PIPELINE}, {}, ("pipeline", "native", None)),
        ({"model_index.json": IN_TREE}, {"ltxv.safetensors": ["vae.x"]}, ("pipeline", "diffusers", None)),
        ({"model_index.json": {"unet": ["diffusers", "UNet2DConditionModel"]}}, {}, ("other", None, None)),
        ({"model_index.json": UPSAMPLING}, {}, ("pipeline", "native", None)),
        ({"config.json": {"_class_name": "AutoencoderKLLTX"}}, {}, ("component", "native", "vae")),
        ({"config.json": {"_class_name": "LTXVideoTransformer3DModel"}}, {}, ("component", "diffusers", "transformer")),
        ({"config.json": {"model_type": "llama"}}, {}, ("other", None, None)),
        ({"config.json": {}, "adapter_config.json": {}}, {"adapter_model.safetensors": []}, ("lora", None, None)),
        ({}, {"x.safetensors": ["diffusion_model.a.lora_A.weight", "diffusion_model.a.alpha"]}, ("lora", None, None)),
        ({}, {"x.safetensors": ["lora_unet_a.lora_down.weight", "lora_unet_a.dora_scale"]}, ("lora", None, None)),
        ({}, {"x.safetensors": ["model.diffusion_model.a", "vae.b"]}, ("single-file", "official", None)),
        ({}, {"x.safetensors": ["vae.a"], "y.safetensors": ["a.lora_A.weight"]}, ("other", None, None)),
        ({}, {"x.safetensors": []}, ("other", None, None)),
        ({}, {}, ("empty", None, None)),
    ],
)  # fmt: skip
def test_what_files_hold(jsons: dict, tensors: dict, expected: tuple) -> None:
    assert describe(jsons, tensors, "README.md", "LICENSE.txt", ".gitattributes", "samples/a.mp4") == expected


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
config = st.dictionaries(
    st.sampled_from(["_class_name", "transformer", "vae", "architectures", "model_type", "x"]), anything
)


@settings(deadline=None, max_examples=150)
@given(config, st.sampled_from(["model_index.json", "config.json"]))
def test_any_json_is_told_without_an_accident(content: dict, name: str) -> None:
    kind, *_ = describe({name: content}, {})
    assert kind in ("other", "pipeline", "component")


@pytest.mark.parametrize("name", ["a", "vae/config.json", "samples/a b.mp4", "Ünï.md", "a..b/c"])
def test_plain_names(name: str) -> None:
    check_file_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "C:a", "a\\b", "a\0", ".git/config", "a /b", "nul\n"],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="can't be put into a folder safely"):
        check_file_name(name)
