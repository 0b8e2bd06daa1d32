"""Measures of latent spaces on latents and autoencoders whose answer is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from helpers.linear_autoencoders import Lossless

from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation.latent_report import (
    measure_latent_space,
    measure_latents,
    noise_sensitivity,
)
from ltx_diffusers.evaluation.plain import rounded
from ltx_diffusers.evaluation.vae_adapter import VideoAutoencoder


def clips(count: int = 3, frames: int = 5, side: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(0.3, 0.7, (frames, side, side, 3)).astype(np.float32) for _ in range(count)]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_white_noise_has_no_structure():
    report = measure_latents(noise(16, 6, 5, 8, 8), torch.full((6,), 0.1))
    assert report["effective_rank"] == pytest.approx(6, abs=0.02)
    assert report["mean_absolute_correlation"] < 0.03
    assert report["local_correlation"] == pytest.approx(0, abs=0.02)
    spectrum = report["spectrum"]
    assert spectrum["size"] == [4, 8, 8]  # without the first frame
    assert spectrum["low_frequency_share"] == pytest.approx(
        spectrum["low_frequency_share_of_noise"], abs=0.01
    )
    assert report["used_channels"] == 6
    assert report["latent_pixels"] == 16 * 5 * 8 * 8
    assert report["posterior_std"] == pytest.approx([0.1**0.5] * 6)


def test_latents_that_are_alike_in_each_window_correlate_fully():
    blocks = noise(8, 6, 2, 4, 4).repeat_interleave(2, 3).repeat_interleave(2, 4)
    first, others = blocks[:, :, :1], blocks[:, :, 1:].repeat_interleave(4, 2)
    report = measure_latents(torch.cat([first, others], 2))
    assert report["local_correlation"] == pytest.approx(1, abs=1e-6)
    assert report["spectrum"]["low_frequency_share"] > 2 * report["spectrum"]["low_frequency_share_of_noise"]
    # Sizes that windows don't fill are measured on what they fill.
    cut = measure_latents(torch.cat([first, others], 2)[..., :7, :7])
    assert cut["local_correlation"] == pytest.approx(1, abs=1e-6)


def test_without_a_frame_of_its_own_the_first_latent_is_like_the_others():
    latents = noise(8, 6, 2, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    report = measure_latents(latents, first_is_one_frame=False)
    assert report["local_correlation"] == pytest.approx(1, abs=1e-6)
    assert report["spectrum"]["size"] == [4, 8, 8]


@pytest.mark.parametrize("shape", [(4, 6, 1, 4, 4), (4, 6, 2, 4, 4), (4, 6, 3, 1, 1), (4, 1, 3, 4, 4)])
def test_small_latents_are_measured_as_far_as_they_go(shape):
    report = measure_latents(noise(*shape))
    can = shape[1] > 1 and shape[3] > 1
    assert (report["local_correlation"] is not None) == can
    assert len(report["explained_variance"]) == shape[1]


def test_a_report_is_plain_and_has_the_models_facts():
    steps = []
    autoencoder = VideoAutoencoder(Lossless(), "mine")
    report = measure_latent_space(autoencoder, clips(), on_clip=lambda: steps.append(1))
    assert report == json.loads(json.dumps(report, allow_nan=False))
    assert len(steps) == 2 * 3
    assert report["model"]["name"] == "mine"
    assert report["model"]["latent_channels"] == 48
    assert report["model"]["latent_size"] == {"frames": 5, "height": 4, "width": 4}
    assert report["model"]["compression"] == 1
    assert report["model"]["first_latent_is_one_frame"] is False
    assert report["latents"]["posterior_std"] == pytest.approx([0.5**0.5] * 48, rel=1e-5)
    assert "noise" not in measure_latent_space(autoencoder, clips(), noise_levels=())


def test_noise_costs_what_it_must_where_decoding_is_linear():
    """An autoencoder that only reorders pixels turns noise of deviation s into an error of mean square s^2."""
    autoencoder, read = VideoAutoencoder(Lossless()), clips(8)
    latents = torch.cat(
        [autoencoder.encode(torch.from_numpy(clip).permute(3, 0, 1, 2)[None] * 2 - 1).mean for clip in read]
    )
    levels = (0.0, 0.1, 0.3)
    result = noise_sensitivity(autoencoder, read, latents, levels)
    variance = latents.var((0, 2, 3, 4), unbiased=False).mean().item()
    expected = [-10 * math.log10(level**2 * variance / 4) for level in levels[1:]]  # pixels span 2
    assert result["psnr"][1:] == pytest.approx(expected, abs=0.1)
    assert result["psnr"][0] > 55  # nothing but the rounding to 256 steps
    assert result["drop"] == pytest.approx([result["psnr"][0] - value for value in result["psnr"]])
    assert noise_sensitivity(autoencoder, read, latents, levels) == result
    assert noise_sensitivity(autoencoder, read, latents, levels, seed=1) != result


def test_clips_must_be_of_one_size():
    autoencoder = VideoAutoencoder(Lossless())
    with pytest.raises(InputError, match="no clips"):
        measure_latent_space(autoencoder, [])
    with pytest.raises(InputError, match="one size"):
        measure_latent_space(autoencoder, [*clips(1), *clips(1, side=20)])
    assert autoencoder.model.decoded == 0


def test_rounding():
    assert rounded({"a": [1.23456789, math.inf], "b": (1, None, "x", True)}) == {
        "a": [1.23457, None],
        "b": [1, None, "x", True],
    }
