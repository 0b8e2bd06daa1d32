"""Videos whose frames are decoded while they are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_components

from ltx_diffusers import LTXConditionPipeline, LTXPipeline, VideoCondition
from ltx_diffusers.pipelines.decoding import decode_latents, stream_latents
from ltx_diffusers.pipelines.frames import to_output


@pytest.fixture(scope="module")
def pipeline() -> LTXPipeline:
    pipeline = LTXPipeline(**tiny_components(timestep_conditioning=True, causal=True))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made(pipeline: LTXPipeline, output_type: str):
    return pipeline(
        ["a red circle", "a blue square"],
        height=32,
        width=64,
        num_frames=17,
        num_inference_steps=1,
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
        output_type=output_type,
    ).frames


def test_a_stream_gives_the_frames_of_the_video(pipeline):
    stream = made(pipeline, "stream")
    frames = np.concatenate(list(stream), axis=1)
    expected = (made(pipeline, "np") * 255).round().astype(np.uint8)
    assert frames.shape == (2, 17, 32, 64, 3)
    assert np.abs(frames.astype(int) - expected).max() <= 1  # rounded from numbers that differ by 1e-6
    assert (frames == expected).mean() > 0.999


def test_prompts_with_conditions_of_different_kinds_come_in_one_piece_in_their_order(pipeline):
    pipe = LTXConditionPipeline.from_pipe(pipeline)
    pipe.set_progress_bar_config(disable=True)
    first = VideoCondition(image=np.full((32, 64, 3), 200, np.uint8))

    def videos(output_type: str):
        return pipe(
            [[first], [], [first]],
            prompt=["a red circle", "a blue square", "a green cross"],
            height=32,
            width=64,
            num_frames=9,
            num_inference_steps=1,
            generator=[torch.Generator().manual_seed(seed) for seed in range(3)],
            output_type=output_type,
        ).frames

    (frames,) = videos("stream")
    expected = (videos("np") * 255).round().astype(int)
    assert np.abs(frames.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("how", ["tiles", "whole", "stream"])
def test_a_vae_that_can_not_stream_gives_all_at_once(pipeline, how, monkeypatch):
    vae = pipeline.vae
    monkeypatch.setattr(vae, "use_tiling", how == "tiles")
    monkeypatch.setattr(vae, "use_pieces", how == "stream")
    latents = torch.randn(1, 8, 3, 1, 2)
    settings = {"timestep": [0.05], "noise_scale": [0.1]}
    with torch.no_grad():
        pieces = list(stream_latents(vae, latents, **settings, generator=torch.Generator().manual_seed(0)))
        video = decode_latents(vae, latents, **settings, generator=torch.Generator().manual_seed(0))
    expected = np.stack([np.stack(clip) for clip in to_output(video, "pil")])
    frames = np.concatenate(pieces, axis=1)
    assert frames.dtype == np.uint8
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert np.array_equal(next(to_output(video, "stream")), expected)
