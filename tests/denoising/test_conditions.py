"""Conditions: what they write into a state, and what they refuse. (Against the official code: tests/parity.)"""

from __future__ import annotations

import pytest
import torch

from ltx_diffusers.denoising.conditions import (
    ClipCondition,
    InPlaceCondition,
    KeyframeCondition,
    ReferenceCondition,
    RegionCondition,
)
from ltx_diffusers.denoising.conditions.region import kept_latents
from ltx_diffusers.denoising.state import TokenState, at_noise_level, from_noise
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.functional.latents import pack_latents
from ltx_diffusers.geometry import LTX_RATIOS, VideoSize

SIZE, CHANNELS = VideoSize(4, 2, 3), 5
PLACEMENT = Placement(24.0, causal=True)


def state_of(batch: int = 2) -> TokenState:
    return from_noise(torch.randn(batch, CHANNELS, *SIZE), PLACEMENT)


def latents_of(frames: int = 1, height: int = 2, width: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, CHANNELS, frames, height, width)


def strengths(state: TokenState) -> torch.Tensor:
    """(B, F, H, W) of the target."""
    return state.strength[:, : state.num_target].unflatten(1, tuple(SIZE))


def test_a_box_of_tokens_is_given_and_nothing_else():
    before, latents = state_of(), latents_of(2, 1, 2)
    after = InPlaceCondition(latents, 0.5, start=(1, 1, 1)).apply_to(before)
    expected = torch.zeros(2, *SIZE)
    expected[:, 1:3, 1:2, 1:3] = 0.5
    assert torch.equal(strengths(after), expected)
    given = after.clean.unflatten(1, tuple(SIZE))[:, 1:3, 1:2, 1:3]
    assert torch.equal(given.flatten(1, 3), pack_latents(latents))
    assert (after.clean[after.strength == 0] == 0).all()


def test_a_strength_for_each_latent_and_a_0_that_leaves_what_was_given():
    first = InPlaceCondition(latents_of(1), 0.75).apply_to(state_of())
    per_latent = torch.tensor([[[[0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]]])
    second = InPlaceCondition(latents_of(1), per_latent).apply_to(first)
    expected = torch.where(per_latent[0] > 0, per_latent[0], 0.75).expand(2, 1, 2, 3)
    assert torch.equal(strengths(second)[:, :1], expected)
    kept = second.strength == 0.75
    assert kept.any() and torch.equal(second.clean[kept], first.clean[kept])


@pytest.mark.parametrize(("causal", "frame"), [(True, 13), (False, 13)])
def test_a_keyframe_stands_at_its_time(causal, frame):
    state = from_noise(torch.randn(1, CHANNELS, *SIZE), Placement(24.0, causal))
    after = KeyframeCondition(latents_of(2, batch=1), frame=frame).apply_to(state)
    seconds = after.coords[0, 0, state.num_target :].view(2, -1)
    second_latent = frame + (1 if causal else 8)
    torch.testing.assert_close(seconds, torch.tensor([[frame], [second_latent]]).expand(2, 6) / 24.0)
    assert torch.equal(after.coords[0, 1:, -6:], state.coords[0, 1:, :6])
    assert after.num_extra == 12


@pytest.mark.parametrize(
    ("prefix", "expected", "extra"), [("extra", 0.0, 12), ("soft", 0.15, 0), ("drop", 0.0, 0)]
)
def test_the_beginning_of_a_clip_inside_the_video(prefix, expected, extra):
    latents = latents_of(3)
    after = ClipCondition(latents, 0.9, frame=8, prefix=prefix).apply_to(state_of())
    per_frame = strengths(after).amax(dim=(0, 2, 3))
    torch.testing.assert_close(per_frame, torch.tensor([0.0, 0.0, expected, 0.9]))
    assert after.num_extra == extra
    given = after.clean[:, after.num_target - 6 : after.num_target]
    assert torch.equal(given, pack_latents(latents[:, :, 2:]))


def test_a_reference_lies_on_the_target_and_a_small_one_is_stretched_over_it():
    state = state_of()
    same = ReferenceCondition(latents_of(4)).apply_to(state)
    assert torch.equal(same.coords[:, :, state.num_target :], state.coords)
    small = ReferenceCondition(latents_of(4, 1, 1), scale=2.0).apply_to(state)
    assert (small.coords[:, 1:, state.num_target :] == 0).all()
    wide = ReferenceCondition(latents_of(1, 1, 2), scale=1.5).apply_to(state)
    assert wide.coords[0, 2, state.num_target :].tolist() == [0, 48]


def test_latents_are_kept_where_every_pixel_is():
    """Oracle: a loop over latents and the pixels that each stands for."""
    keep = torch.rand(2, 17, 64, 96) < 0.99995
    kept = kept_latents(keep, LTX_RATIOS)
    assert 0 < kept.float().mean() < 1
    for frame in range(3):
        frames = slice(0, 1) if frame == 0 else slice(8 * frame - 7, 8 * frame + 1)
        for row in range(2):
            for column in range(3):
                box = keep[:, frames, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
                assert torch.equal(kept[:, frame, row, column], box.flatten(1).all(dim=1))


def test_a_region_gives_the_kept_tokens_of_each_video():
    keep = torch.ones(2, 25, 64, 96, dtype=torch.bool)
    keep[1, 9:17, :32] = False
    latents = latents_of(4)
    after = RegionCondition(latents, torch.tensor([1.0, 0.5]), keep).apply_to(state_of())
    expected = torch.tensor([1.0, 0.5]).view(2, 1, 1, 1).repeat(1, *SIZE)
    expected[1, 2, 0] = 0
    assert torch.equal(strengths(after), expected)
    everything = RegionCondition(latents).apply_to(state_of())
    assert (strengths(everything) == 1).all() and torch.equal(everything.clean, pack_latents(latents))


def test_noise_of_extra_tokens_comes_from_the_generators():
    state = KeyframeCondition(latents_of(1), 0.25, frame=9).apply_to(state_of())
    seeds = (3, 4)
    both = at_noise_level(state, 1.0, [torch.Generator().manual_seed(seed) for seed in seeds])
    extra = slice(state.num_target, None)
    for row, seed in enumerate(seeds):
        noise = torch.randn(1, 6, CHANNELS, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(
            both.tokens[row, extra], (0.25 * state.clean[row, extra] + 0.75 * noise)[0]
        )
    assert torch.equal(both.tokens[:, : state.num_target], state.tokens[:, : state.num_target])


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (InPlaceCondition(latents_of(2), start=(3, 0, 0)), "don't fit the video"),
        (InPlaceCondition(latents_of(1), start=(0, -1, 0)), "don't fit the video"),
        (InPlaceCondition(latents_of(1), torch.ones(1, 2, 2, 3)), "one per latent"),
        (InPlaceCondition(latents_of(1), 1.5), r"in \[0, 1\]"),
        (KeyframeCondition(latents_of(1, 1, 3), frame=9), "don't fit the video"),
        (KeyframeCondition(latents_of(1, batch=3), frame=9), "don't fit the video"),
        (ClipCondition(latents_of(2), frame=9), "whole latent"),
        (ClipCondition(latents_of(1), frame=8), "keyframe"),
        (ClipCondition(latents_of(4), frame=16), "don't fit the video"),
        (ReferenceCondition(latents_of(1), scale=0.0), "scale"),
        (RegionCondition(latents_of(4), keep=torch.ones(1, 17, 64, 96)), "mask doesn't fit"),
        (RegionCondition(latents_of(4), keep=torch.ones(1, 25, 64, 95)), "each pixel"),
        (RegionCondition(latents_of(4), keep=torch.ones(25, 64, 96)), "each pixel"),
    ],
)
def test_conditions_that_do_not_fit(condition, message):
    with pytest.raises(InputError, match=message):
        condition.apply_to(state_of())


def test_an_unknown_prefix():
    with pytest.raises(InputError, match="prefix"):
        ClipCondition(latents_of(3), prefix="concat")
