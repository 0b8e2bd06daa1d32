"""Tone mapping and matched statistics against the official pipeline's functions."""

from __future__ import annotations

import pytest
import torch

from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.latent_statistics import match_statistics, tone_map


@pytest.fixture
def official():
    return pytest.importorskip("ltx_video.pipelines.pipeline_ltx_video")


@pytest.mark.parametrize("compression", [0.0, 0.3, 0.6, 1.0])
def test_tone_map(official, compression: float) -> None:
    latents = 3 * torch.randn(2, 4, 3, 2, 5)
    expected = official.LTXVideoPipeline.tone_map_latents(latents, compression)
    torch.testing.assert_close(tone_map(latents, compression), expected)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0])
def test_match_statistics(official, factor: float) -> None:
    latents, reference = 3 + torch.randn(2, 4, 3, 2, 5), 5 * torch.randn(2, 4, 3, 4, 2) - 1
    expected = official.adain_filter_latent(latents, reference, factor)
    torch.testing.assert_close(match_statistics(latents, reference, factor), expected, atol=1e-5, rtol=1e-5)


def test_a_constant_channel_gets_the_references_mean() -> None:
    reference = torch.randn(1, 2, 2, 2, 2)
    matched = match_statistics(torch.ones(1, 2, 2, 2, 2), reference)
    expected = reference.mean(dim=(2, 3, 4), keepdim=True).expand_as(reference)
    torch.testing.assert_close(matched, expected)


def test_compression_out_of_range() -> None:
    with pytest.raises(InputError, match="compression"):
        tone_map(torch.zeros(1), 1.5)
