"""What code written for Diffusers' LTX pipelines reads off ours."""

from __future__ import annotations

import diffusers
import pytest
from tiny import tiny_components

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline

NAMES = (
    "vae_spatial_compression_ratio",
    "vae_temporal_compression_ratio",
    "transformer_spatial_patch_size",
    "transformer_temporal_patch_size",
    "tokenizer_max_length",
)


@pytest.mark.parametrize("ours", [LTXPipeline, LTXImageToVideoPipeline])
def test_attributes_are_those_of_diffusers(ours):
    pipeline, theirs = ours(**tiny_components()), diffusers.LTXPipeline(**tiny_components(ours=False))
    pipeline.tokenizer.model_max_length = theirs.tokenizer_max_length = 40
    assert {name: getattr(pipeline, name) for name in NAMES} == {
        name: getattr(theirs, name) for name in NAMES
    }
    assert pipeline.video_processor.config == theirs.video_processor.config


def test_attributes_follow_the_components():
    pipeline = LTXPipeline(**tiny_components())
    pipeline.register_modules(tokenizer=None)
    assert pipeline.tokenizer_max_length == 256
    pipeline.vae.spatial_compression_ratio = 64
    assert pipeline.vae_spatial_compression_ratio == pipeline.video_processor.config.vae_scale_factor == 64
