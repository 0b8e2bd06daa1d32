"""LTXConditionPipeline against Diffusers' of the same name, on one set of weights, where theirs is right: within 1e-4.

Both read the mean of the VAE's distribution here, and noise on given tokens is off where there are tokens beside the
video's own: Diffusers draws in another order and keeps those tokens in front.
"""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from PIL import Image
from tiny import tiny_components

from ltx_diffusers import LTXConditionPipeline

TOLERANCE = 1e-4
CALL = {
    "prompt": "a red circle moves",
    "negative_prompt": "white wall on black",
    "height": 64,
    "width": 96,
    "num_frames": 33,
    "frame_rate": 20,
    "num_inference_steps": 5,
    "max_sequence_length": 5,
    "output_type": "latent",
}


@pytest.fixture(scope="module")
def pair():
    """Ours and theirs, with the settings of 0.9.5."""
    settings = {"timestep_conditioning": True, "causal": True, "statistics": True}
    pipelines = (
        LTXConditionPipeline(**tiny_components(**settings)),
        diffusers.LTXConditionPipeline(**tiny_components(**settings, ours=False)),
    )
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    return pipelines


@pytest.fixture(autouse=True)
def certain(monkeypatch) -> None:
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


def picture(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def clip(count: int, seed: int) -> list[Image.Image]:
    return [picture(seed + index) for index in range(count)]


def frames(pipeline, **changes) -> torch.Tensor:
    call = CALL | changes
    generator = torch.Generator().manual_seed(call.pop("seed", 1))
    return pipeline(**call, generator=generator).frames


START = torch.randn(1, 8, 5, 2, 3, generator=torch.Generator().manual_seed(7))
CASES = {
    "first frame": {"conditions": [LTXVideoCondition(image=picture(1))]},
    "short form": {"image": picture(1), "strength": 0.7},
    "first frame of another size": {"conditions": [LTXVideoCondition(image=picture(1, 140, 90))]},
    "soft first frame": {"conditions": [LTXVideoCondition(image=picture(1), strength=0.6)]},
    "clip at the start": {"conditions": [LTXVideoCondition(video=clip(17, 1))]},
    "keyframe": {
        "conditions": [LTXVideoCondition(image=picture(1), frame_index=12)],
        "image_cond_noise_scale": 0.0,
    },
    "first and last": {
        "conditions": [
            LTXVideoCondition(image=picture(1)),
            LTXVideoCondition(image=picture(2), frame_index=32),
        ],
        "image_cond_noise_scale": 0.0,
    },
    "clip at the end": {
        "conditions": [LTXVideoCondition(video=clip(17, 1), frame_index=16)],
        "image_cond_noise_scale": 0.0,
    },
    "rescaled guidance": {"image": picture(1), "guidance_scale": 5.0, "guidance_rescale": 0.7},
    "video to video": {"latents": START, "denoise_strength": 0.6},
    "video to video with a first frame": {"latents": START, "denoise_strength": 0.6, "image": picture(1)},
}


@pytest.mark.parametrize("name", CASES)
def test_videos_are_equal(pair, name):
    ours, theirs = (frames(pipeline, **CASES[name]) for pipeline in pair)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)
    changed = frames(pair[0], **CASES[name] | {"seed": 2})
    assert (ours - changed).abs().max() > 100 * TOLERANCE


def test_keyframes_in_a_batch_fail_there_and_are_single_calls_here(pair):
    ours, theirs = pair
    call = {**CASES["keyframe"], "prompt": ["a red circle moves", "the blue square down"]}
    call["negative_prompt"] = [CALL["negative_prompt"]] * 2
    with pytest.raises(RuntimeError):
        frames(theirs, **call)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    together = ours(**CALL | call, generator=generators).frames
    for row, prompt in enumerate(call["prompt"]):
        alone = frames(ours, **CASES["keyframe"], prompt=prompt, seed=row + 1)
        torch.testing.assert_close(together[row : row + 1], alone, atol=TOLERANCE, rtol=0)


def test_a_list_of_pictures_is_cut_to_one_there_and_kept_here(pair):
    ours, theirs = pair
    both = {"image": [picture(1), picture(2)], "frame_index": [0, 16], "image_cond_noise_scale": 0.0}
    one = {"image": picture(1), "image_cond_noise_scale": 0.0}
    assert torch.equal(frames(theirs, **both), frames(theirs, **one))
    named = [LTXVideoCondition(image=picture(1)), LTXVideoCondition(image=picture(2), frame_index=16)]
    as_conditions = frames(theirs, conditions=named, image_cond_noise_scale=0.0)
    torch.testing.assert_close(frames(ours, **both), as_conditions, atol=TOLERANCE, rtol=0)
