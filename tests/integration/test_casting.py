"""Layerwise casting: weights kept in eight bits, each layer computing in its usual type."""

from __future__ import annotations

import pytest
import torch
from diffusers.hooks import apply_layerwise_casting
from helpers.autoencoders import relative_error
from tiny import tiny_components

from ltx_diffusers import LTXPipeline

STORAGE = torch.float8_e4m3fn
LAYERS = (torch.nn.Linear, torch.nn.Conv3d, torch.nn.Embedding)
CALL = {
    "prompt": "a",
    "height": 64,
    "width": 64,
    "num_frames": 9,
    "num_inference_steps": 2,
    "output_type": "pt",
}


@pytest.fixture
def pipeline() -> LTXPipeline:
    made = LTXPipeline(**tiny_components(timestep_conditioning=True, causal=True, statistics=True))
    made.set_progress_bar_config(disable=True)
    return made


def video(pipeline) -> torch.Tensor:
    return pipeline(**CALL, generator=torch.Generator().manual_seed(0)).frames


def stored(model) -> dict[str, torch.nn.Module]:
    """The layers whose weights are kept in eight bits."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS) and layer.weight.dtype == STORAGE
    }


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_cast_model_computes_with_its_rounded_weights(pipeline, part, compute):
    pipeline.to(compute)
    plain = video(pipeline)
    model = getattr(pipeline, part)
    model.enable_layerwise_casting(storage_dtype=STORAGE, compute_dtype=compute)
    names = list(stored(model))
    assert len(names) > 10
    assert not any(
        "norm" in name for name in names
    )  # normalisation, where few weights matter much, is left out
    assert model.dtype == compute  # what the pipeline prepares inputs in

    cast = video(pipeline)
    assert list(stored(model)) == names
    assert 0 < relative_error(cast.float(), plain.float()) < 0.2

    rounded = LTXPipeline(**tiny_components(timestep_conditioning=True, causal=True, statistics=True))
    rounded.set_progress_bar_config(disable=True)
    rounded.to(compute)
    for name in names:
        layer = getattr(rounded, part).get_submodule(name)
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(STORAGE).to(compute)
    torch.testing.assert_close(cast, video(rounded))


def test_an_image_is_encoded_by_a_cast_vae_too(pipeline):
    """A single frame takes a short cut through the convolutions, which mustn't go past the casting."""
    frame = torch.rand(1, 3, 1, 64, 64)
    expected = pipeline.vae.encode(frame).latent_dist.mode()
    pipeline.vae.enable_layerwise_casting(storage_dtype=STORAGE, compute_dtype=torch.float32)
    assert 0 < relative_error(pipeline.vae.encode(frame).latent_dist.mode(), expected) < 0.2


def test_the_text_encoder_can_be_cast(pipeline):
    """Of Transformers, so not by a method of its own; T5 casts inputs of its `wo` to their weights' type itself."""
    plain = video(pipeline)
    apply_layerwise_casting(
        pipeline.text_encoder,
        storage_dtype=STORAGE,
        compute_dtype=torch.float32,
        skip_modules_pattern=("wo", "norm"),
    )
    assert stored(pipeline.text_encoder)
    assert 0 < relative_error(video(pipeline), plain) < 0.2
