"""A VAE's reconstruction is decoded as a pipeline would decode it."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo

from ltx_diffusers.evaluation.reconstruction import reconstruct

TINY = {
    "block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1, 1),
    "latent_channels": 8,
}


def tiny_vae(conditioned: bool, **settings: float) -> AutoencoderKLLTXVideo:
    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(**TINY, timestep_conditioning=conditioned).eval()
    vae.latents_mean.uniform_(-1, 1)
    vae.latents_std.uniform_(0.5, 2)
    vae.register_to_config(**settings)
    return vae


@pytest.fixture
def video() -> torch.Tensor:
    return torch.rand(2, 3, 9, 64, 64) * 2 - 1


@torch.no_grad()
def test_without_conditioning_it_is_the_plain_round_trip(video):
    vae = tiny_vae(conditioned=False)
    expected = vae.decode(vae.encode(video).latent_dist.mode()).sample.clamp(-1, 1)
    torch.testing.assert_close(reconstruct(vae, video), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("settings", "level", "scale"),
    [
        ({"default_decode_timestep": 0.2, "default_decode_noise_scale": 0.1}, 0.2, 0.1),
        ({"default_decode_timestep": 0.0, "default_decode_noise_scale": 0.0}, 0.0, 0.0),
        ({}, 0.05, 0.025),  # the released models' settings
    ],
    ids=["stated", "none", "fallback"],
)
def test_with_conditioning_noise_is_mixed_into_normalised_latents(video, settings, level, scale):
    vae = tiny_vae(conditioned=True, **settings)
    mean, std = (statistic.view(1, -1, 1, 1, 1) for statistic in (vae.latents_mean, vae.latents_std))
    normal = (vae.encode(video).latent_dist.mode() - mean) / std
    noise = torch.cat(
        [torch.randn(normal[:1].shape, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)]
    )
    mixed = ((1 - scale) * normal + scale * noise) * std + mean
    expected = vae.decode(mixed, torch.full((2,), level)).sample.clamp(-1, 1)
    actual = reconstruct(vae, video, [torch.Generator().manual_seed(seed) for seed in (5, 6)])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
