"""Upsampling and the two-stage recipe against Diffusers' pipeline where it is right, and against single calls."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from tiny import tiny_components
from torch.nn import functional

from ltx_diffusers import (
    LTXConditionPipeline,
    LTXLatentUpsamplePipeline,
    LTXLatentUpsampler,
    RegionOfVideo,
    VideoCondition,
)
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance
from ltx_diffusers.errors import InputError
from ltx_diffusers.pipelines.pipeline_ltx_latent_upsample import upsample_latents
from ltx_diffusers.pipelines.presets import PassPreset, Preset
from ltx_diffusers.pipelines.two_stage import _resized, generate_in_two_stages

UPSAMPLER = {"in_channels": 8, "mid_channels": 32, "num_blocks_per_stage": 1}
CALL = {
    "prompt": "a red circle moves",
    "num_frames": 17,
    "frame_rate": 20,
    "num_inference_steps": 4,
    "max_sequence_length": 5,
    "decode_noise_scale": 0.0,
    "image_cond_noise_scale": 0.0,
}


@pytest.fixture(scope="module")
def components() -> dict:
    return tiny_components(timestep_conditioning=True, causal=True, statistics=True)


@pytest.fixture(scope="module")
def pipeline(components) -> LTXConditionPipeline:
    pipeline = LTXConditionPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def upsampler() -> LTXLatentUpsampler:
    torch.manual_seed(3)
    return LTXLatentUpsampler(**UPSAMPLER).eval()


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def pictures(count: int, height: int = 96, width: int = 192) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def test_upsampled_latents_are_diffusers(components, upsampler) -> None:
    theirs = LTXLatentUpsamplerModel(**UPSAMPLER)
    theirs.load_state_dict(upsampler.state_dict())
    vae = tiny_components(timestep_conditioning=True, causal=True, statistics=True, ours=False)["vae"]
    reference = diffusers.LTXLatentUpsamplePipeline(vae, theirs)
    own = LTXLatentUpsamplePipeline(components["vae"], upsampler)
    latents = torch.randn(2, 8, 3, 2, 3)
    expected = reference(
        latents=latents, adain_factor=0.0, output_type="latent", height=128, width=192
    ).frames
    result = own(latents=latents, adain_factor=0.0, output_type="latent").frames
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)
    assert result.shape == (2, 8, 3, 4, 6)
    # Decoded without noise or tone mapping theirs is right too.
    videos = [
        pipe(latents=latents, adain_factor=0.0, output_type="pt", **size).frames
        for pipe, size in ((own, {}), (reference, {"height": 128, "width": 192}))
    ]
    torch.testing.assert_close(*videos, atol=1e-4, rtol=0)


def test_statistics_are_those_of_the_input(components, upsampler) -> None:
    latents = 2 + 3 * torch.randn(2, 8, 3, 2, 3)
    result = LTXLatentUpsamplePipeline(components["vae"], upsampler)(
        latents=latents, output_type="latent"
    ).frames
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(
            statistic(result, dim=(2, 3, 4)), statistic(latents, dim=(2, 3, 4)), atol=1e-3, rtol=1e-3
        )


def test_a_video_is_encoded_first(components, upsampler, monkeypatch) -> None:
    own = LTXLatentUpsamplePipeline(components["vae"], upsampler)
    frames = own(video=list(pictures(9)), generator=seeded(), output_type="np").frames
    assert frames.shape == (1, 9, 192, 384, 3)
    for arguments, message in (
        ({}, "either a video or latents"),
        ({"video": pictures(10)}, "8k"),
        ({"video": pictures(9), "height": 64}, "another size"),
        ({"latents": torch.zeros(1, 8, 2, 2, 2), "tone_map_compression_ratio": 2.0}, "tone_map"),
        ({"latents": torch.zeros(1, 8, 2, 2, 2), "decode_timestep": [0.0, 0.1]}, "one for each"),
        ({"latents": torch.zeros(1, 8, 2, 2, 2), "decode_noise_scale": 2.0}, "decode_noise_scale"),
        ({"latents": torch.zeros(1, 8, 2, 2, 2), "adain_factor": -1}, "adain_factor"),
        ({"latents": torch.zeros(1, 8, 2, 2, 2), "output_type": "mp4"}, "output_type"),
    ):
        monkeypatch.setattr(own, "latent_upsampler", None)  # nothing is computed before
        with pytest.raises(InputError, match=message):
            own(**arguments)


def test_the_upsampler_runs_where_it_is_and_without_gradients(components, upsampler) -> None:
    class Elsewhere(torch.nn.Module):
        device, dtype = torch.device("meta"), torch.float32

        def forward(self, latents):
            assert latents.device == self.device
            return torch.ones(latents.shape)

    latents = torch.randn(1, 8, 2, 2, 2)
    assert upsample_latents(components["vae"], Elsewhere(), latents).device == latents.device
    assert not upsample_latents(components["vae"], upsampler, latents).requires_grad


def test_the_recipe_is_its_parts(pipeline, upsampler) -> None:
    """192x96 asked for: a pass at 128x64, one at 256x128, resized."""
    second = {"sigmas": [0.9, 0.5], "num_inference_steps": None, "guidance": ClassifierFreeGuidance(1.0)}
    result = generate_in_two_stages(
        pipeline,
        upsampler,
        height=96,
        width=192,
        second=second,
        generator=seeded(1),
        output_type="pt",
        **CALL,
    ).frames
    generator = seeded(1)
    latents = pipeline(height=64, width=128, generator=generator, output_type="latent", **CALL).frames
    video = pipeline(
        height=128,
        width=256,
        generator=generator,
        initial_latents=upsample_latents(pipeline.vae, upsampler, latents),
        output_type="pt",
        **CALL | second,
    ).frames
    expected = torch.stack([
        functional.interpolate(clip, (96, 192), mode="bilinear", align_corners=False) for clip in video
    ])  # fmt: skip
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_conditions_are_given_to_both_passes_in_their_size(pipeline, upsampler, monkeypatch) -> None:
    sizes = []
    original = LTXConditionPipeline.__call__

    def spy(self, **arguments):
        _, clip, region = arguments["conditions"]
        sizes.append((clip.video[0].shape[1:], tuple(region.keep.shape), region.video[0].shape[1:]))
        return original(self, **arguments)

    monkeypatch.setattr(LTXConditionPipeline, "__call__", spy)
    given = [
        VideoCondition(image=pictures(1)[0], strength=0.5),
        VideoCondition(video=pictures(9), frame_index=8),
        RegionOfVideo(pictures(17), np.ones((96, 192)), strength=0.3),
    ]
    frames = generate_in_two_stages(
        pipeline, upsampler, height=96, width=192, conditions=given, second={"denoise_strength": 0.5}, **CALL
    ).frames
    assert sizes == [((64, 128), (64, 128), (64, 128)), ((128, 256), (128, 256), (128, 256))]
    assert frames[0][0].size == (192, 96)


def test_a_preset_sets_both_passes(pipeline, upsampler, monkeypatch) -> None:
    calls = []
    original = LTXConditionPipeline.__call__
    monkeypatch.setattr(
        LTXConditionPipeline, "__call__", lambda self, **call: calls.append(call) or original(self, **call)
    )
    low, high = ClassifierFreeGuidance(1.0), ClassifierFreeGuidance(5.0)
    preset = Preset(
        "mine",
        PassPreset(high, 4),
        PassPreset(high, 4, skip_final_inference_steps=1),
        PassPreset(low, sigmas=(0.8, 0.4), tone_map_compression=0.6),
    )
    call = {name: value for name, value in CALL.items() if name != "num_inference_steps"}
    generate_in_two_stages(
        pipeline, upsampler, height=96, width=192, preset=preset, first={"num_inference_steps": 3}, **call
    )
    assert [entry["guidance"] for entry in calls] == [high, low]
    assert (calls[0]["num_inference_steps"], calls[0]["skip_final_inference_steps"]) == (3, 1)
    assert (calls[1]["sigmas"], calls[1]["tone_map_compression"]) == ([0.8, 0.4], 0.6)
    # What the call says wins; of steps, for the first pass, because the second has to begin low.
    said = {"guidance_scale": 2.0, "num_inference_steps": 2, "tone_map_compression": 0.1}
    generate_in_two_stages(pipeline, upsampler, height=96, width=192, preset=preset, **call | said)
    for entry in calls[2:]:
        assert entry.get("guidance") is None and entry["guidance_scale"] == 2.0
        assert entry["tone_map_compression"] == 0.1
    assert (calls[2]["num_inference_steps"], calls[2].get("sigmas")) == (2, None)
    assert (calls[3]["num_inference_steps"], calls[3]["sigmas"]) == (None, [0.8, 0.4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "where it begins"),
        ({"height": 32, "second": {"denoise_strength": 0.5}}, "nothing is left"),
        (
            {
                "second": {"denoise_strength": 0.5},
                "conditions": VideoCondition(image=pictures(1, 64, 64)[0], place=(0, 0)),
            },
            "placed on the canvas",
        ),
    ],
)
def test_what_cannot_be(pipeline, upsampler, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        generate_in_two_stages(pipeline, upsampler, **{"height": 96, "width": 192} | changes, **CALL)


def test_each_pass_fits_a_clip_itself() -> None:
    """A clip with a `fit` keeps its own shape until it is fitted; one without is brought to the pass's size."""
    clip = np.zeros((9, 70, 50, 3), np.uint8)
    fitted = VideoCondition(video=clip, fit="crop")
    assert _resized(fitted, (32, 64)) is fitted
    assert _resized(VideoCondition(video=clip), (32, 64)).video[0].shape == (3, 32, 64)
