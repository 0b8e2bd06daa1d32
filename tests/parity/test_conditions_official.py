"""Conditions against the official pipeline's `prepare_conditioning`, on made-up latents and the same noise."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ltx_diffusers.denoising.conditions import ClipCondition, InPlaceCondition, KeyframeCondition
from ltx_diffusers.denoising.state import at_noise_level, from_noise, token_levels
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.geometry import VideoSize

official = pytest.importorskip("ltx_video.pipelines.pipeline_ltx_video")
patchifier = pytest.importorskip("ltx_video.models.transformers.symmetric_patchifier")
vae_encode = pytest.importorskip("ltx_video.models.autoencoders.vae_encode")

SIZE = VideoSize(6, 3, 4)
CHANNELS, FRAME_RATE = 5, 25.0
FRAMES, HEIGHT, WIDTH = 41, 96, 128


def media(frames: int, height: int = 3, width: int = 4, seed: int = 0) -> torch.Tensor:
    """Latents that stand for a clip; the official code is given pictures that `encode` below turns into them."""
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(1, CHANNELS, frames, height, width, generator=generator)


# What is given: latents, frame, strength, place on the canvas (x, y in pixels), and our condition for it.
CASES = {
    "first frame": [(media(1), 0, 1.0, None, lambda z: InPlaceCondition(z))],
    "soft first frame": [(media(1), 0, 0.5, None, lambda z: InPlaceCondition(z, 0.5))],
    "clip at the start": [(media(3), 0, 0.8, None, lambda z: ClipCondition(z, 0.8))],
    "keyframe": [(media(1), 20, 1.0, None, lambda z: KeyframeCondition(z, frame=20))],
    "soft keyframe": [(media(1), 20, 0.3, None, lambda z: KeyframeCondition(z, 0.3, 20))],
    "clip at the end": [(media(3), 24, 1.0, None, lambda z: ClipCondition(z, frame=24))],
    "short clip": [(media(2), 16, 0.6, None, lambda z: ClipCondition(z, 0.6, 16))],
    "on the canvas": [
        # The official code strips the latents at borders inside the canvas; a condition gets what is left.
        (media(1, 2, 3), 0, 1.0, (0, 32), lambda z: InPlaceCondition(z[:, :, :, 1:, :-1], start=(0, 2, 0)))
    ],
    "mixture": [
        (media(1), 0, 1.0, None, lambda z: InPlaceCondition(z)),
        (media(1, seed=1), 11, 0.7, None, lambda z: KeyframeCondition(z, 0.7, 11)),
        (media(3, seed=2), 24, 0.9, None, lambda z: ClipCondition(z, 0.9, 24)),
    ],
}


def prepared(case, causal: bool, noise: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    """Tokens, coordinates in seconds, mask and number of extra tokens of the official code."""
    latents_of = {}
    items = []
    for latents, frame, strength, place, _ in case:
        _, _, f, h, w = latents.shape
        pixels = torch.full((1, 3, 8 * (f - 1) + 1, 32 * h, 32 * w), float(len(items)))
        latents_of[float(len(items))] = latents
        x, y = place if place else (None, None)
        items.append(SimpleNamespace(
            media_item=pixels, media_frame_number=frame, conditioning_strength=strength, media_x=x, media_y=y
        ))  # fmt: skip
    vae = object.__new__(official.CausalVideoAutoencoder)
    vae.__dict__ = {"dtype": torch.float32, "device": torch.device("cpu")}
    monkeypatch.setattr(official.CausalVideoAutoencoder, "dtype", torch.float32, raising=False)
    monkeypatch.setattr(official.CausalVideoAutoencoder, "device", torch.device("cpu"), raising=False)
    monkeypatch.setattr(
        official, "vae_encode", lambda pixels, *args, **kwargs: latents_of[float(pixels.flatten()[0])]
    )
    monkeypatch.setattr(
        official,
        "latent_to_pixel_coords",
        lambda coords, vae, causal_fix: vae_encode.latent_to_pixel_coords_from_factors(
            coords, (8, 32, 32), causal_fix
        ),
    )
    pipeline = SimpleNamespace(
        vae=vae,
        patchifier=patchifier.SymmetricPatchifier(1),
        vae_scale_factor=32,
        video_scale_factor=8,
        transformer=SimpleNamespace(
            config=SimpleNamespace(causal_temporal_positioning=causal), use_tpu_flash_attention=False
        ),
        _resize_conditioning_item=lambda item, height, width: item,
        _handle_non_first_conditioning_sequence=(
            official.LTXVideoPipeline._handle_non_first_conditioning_sequence
        ),
    )
    pipeline._get_latent_spatial_position = lambda *args, **kwargs: (
        official.LTXVideoPipeline._get_latent_spatial_position(pipeline, *args, **kwargs)
    )
    tokens, coords, mask, extra = official.LTXVideoPipeline.prepare_conditioning(
        pipeline, items, noise.clone(), FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(7)
    )
    coords = coords.float()
    coords[:, 0] /= FRAME_RATE
    return tokens, coords, mask, extra


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_same_tokens(name: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    noise = torch.randn(1, CHANNELS, *SIZE)
    tokens, coords, mask, extra = prepared(case, causal, noise, monkeypatch)

    state = from_noise(noise, Placement(FRAME_RATE, causal))
    for latents, *_, condition in case:
        state = condition(latents).apply_to(state)
    assert state.num_extra == extra

    def ours_to_theirs(x: torch.Tensor, dim: int) -> torch.Tensor:
        """The official code puts extra tokens in front."""
        target, behind = x.split([state.num_target, extra], dim=dim)
        return torch.cat([behind, target], dim=dim)

    torch.testing.assert_close(ours_to_theirs(state.coords, 2), coords, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours_to_theirs(state.strength, 1), mask)
    start = at_noise_level(state, 1.0, torch.Generator().manual_seed(3))
    # Extra tokens of strength below 1 start from other noise than theirs; it is taken out of both.
    given = ours_to_theirs(state.clean * state.strength[..., None], 1)
    levels = ours_to_theirs(token_levels(state, 1.0), 1)[..., None]
    target = slice(extra, None)
    torch.testing.assert_close(ours_to_theirs(start.tokens, 1)[:, target], tokens[:, target])
    fixed = levels[0, :, 0] == 0
    torch.testing.assert_close(given[:, fixed], tokens[:, fixed])
    if extra and not fixed[:extra].all():
        drawn = (tokens - given)[:, :extra] / levels[:, :extra].clamp_min(1e-6)
        assert 0.5 < drawn[:, ~fixed[:extra]].std() < 1.5
