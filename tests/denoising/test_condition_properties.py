"""What holds for any conditions in any order, on any video: the token state stays whole from noise to latents."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_diffusers import LTXFlowMatchScheduler
from ltx_diffusers.denoising.conditions import (
    ClipCondition,
    InPlaceCondition,
    KeyframeCondition,
    ReferenceCondition,
    RegionCondition,
)
from ltx_diffusers.denoising.loop import denoise
from ltx_diffusers.denoising.samplers import samplers
from ltx_diffusers.denoising.state import TokenState, at_noise_level, from_noise, target_tokens, token_levels
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.geometry import VideoSize

CHANNELS = 3
MANY = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


@st.composite
def conditions(draw: st.DrawFn, size: VideoSize, batch: int) -> tuple[object, int]:
    """A condition that fits, and how many tokens it adds."""
    rows = draw(st.sampled_from([1, batch]))
    strength = draw(st.one_of(st.floats(0, 1), st.just(1.0), st.just(0.0)))
    kind = draw(st.sampled_from(["box", "keyframe", "clip", "region", "reference"]))
    plane = size.height * size.width
    if kind == "box":
        sides = [draw(st.integers(1, side)) for side in size]
        start = tuple(draw(st.integers(0, whole - side)) for whole, side in zip(size, sides, strict=True))
        return InPlaceCondition(noise(rows, CHANNELS, *sides), strength, start), 0
    if kind == "keyframe":
        frame = draw(st.integers(1, 8 * size.frames - 8)) if size.frames > 1 else 0
        return KeyframeCondition(noise(rows, CHANNELS, 1, *size[1:]), strength, frame), plane
    if kind == "clip" and size.frames > 2:
        frames = draw(st.integers(2, size.frames - 1))
        first = draw(st.integers(0, size.frames - frames))
        prefix = draw(st.sampled_from(["extra", "soft", "drop"]))
        added = 2 * plane if prefix == "extra" and first > 0 else 0
        return ClipCondition(noise(rows, CHANNELS, frames, *size[1:]), strength, 8 * first, prefix), added
    if kind == "region":
        keep = torch.rand(rows, 8 * size.frames - 7, 32 * size.height, 32 * size.width) < 2  # all of it
        keep[:, :, : draw(st.integers(0, 32 * size.height))] = False
        return RegionCondition(noise(rows, CHANNELS, *size), strength, keep), 0
    sides = [draw(st.integers(1, 2)) for _ in range(3)]
    added = sides[0] * sides[1] * sides[2]
    return ReferenceCondition(noise(rows, CHANNELS, *sides), strength, draw(st.floats(0.5, 3))), added


@st.composite
def states(draw: st.DrawFn) -> tuple[TokenState, TokenState, int]:
    """A state without conditions, with some, and how many tokens these should have added."""
    size = VideoSize(*(draw(st.integers(1, most)) for most in (4, 2, 3)))
    batch = draw(st.integers(1, 2))
    before = from_noise(
        noise(batch, CHANNELS, *size),
        Placement(24.0, causal=draw(st.booleans())),
        strength_rule=draw(st.sampled_from(["official", "proportional"])),
    )
    state, extra = before, 0
    for _ in range(draw(st.integers(0, 4))):
        condition, added = draw(conditions(size, batch))
        state, extra = condition.apply_to(state), extra + added
    return before, state, extra


@MANY
@given(states())
def test_conditions_keep_the_state_whole(drawn) -> None:
    before, after, extra = drawn
    batch, length = before.tokens.shape[0], before.num_target + extra
    assert after.num_extra == extra
    assert after.tokens.shape == after.clean.shape == (batch, length, CHANNELS)
    assert after.strength.shape == (batch, length)
    assert after.coords.shape == (batch, 3, length)
    assert torch.equal(target_tokens(after), before.tokens)
    assert torch.equal(after.coords[:, :, : before.num_target], before.coords)
    assert ((after.strength >= 0) & (after.strength <= 1)).all()
    free = after.strength[:, : before.num_target] == 0
    assert (after.clean[:, : before.num_target][free] == 0).all()


@MANY
@given(states(), st.floats(0, 1))
def test_every_token_is_at_its_level(drawn, sigma) -> None:
    _, state, _ = drawn
    noisy = at_noise_level(state, sigma, torch.Generator().manual_seed(1))
    again = at_noise_level(state, sigma, torch.Generator().manual_seed(1))
    assert torch.equal(noisy.tokens, again.tokens)
    levels = token_levels(state, sigma)
    assert ((levels >= 0) & (levels <= sigma + 1e-6)).all()
    assert torch.equal(noisy.tokens[levels == 0], state.clean[levels == 0])
    target = slice(0, state.num_target)
    expected = (1 - levels[..., None]) * state.clean + levels[..., None] * state.tokens
    torch.testing.assert_close(noisy.tokens[:, target], expected[:, target])


@pytest.mark.parametrize("name", [None, *samplers.list()])
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(drawn=states())
def test_a_run_keeps_lengths_and_fixed_tokens(name, drawn) -> None:
    _, state, _ = drawn
    scheduler = LTXFlowMatchScheduler()
    scheduler.set_timesteps(3)
    start = at_noise_level(state, 1.0)
    seen = []

    def velocity(now: TokenState, timestep: torch.Tensor) -> torch.Tensor:
        seen.append((now.tokens.shape, timestep.shape[0]))
        return torch.tanh(now.tokens) + now.coords.mean(dim=1)[..., None] / 100

    end = denoise(start, velocity, scheduler, sampler=samplers.get(name)() if name else None)
    assert set(seen) == {(start.tokens.shape, start.tokens.shape[0])}
    assert end.tokens.shape == start.tokens.shape
    assert end.num_extra == start.num_extra
    assert torch.isfinite(end.tokens).all()
    fixed = start.strength == 1
    assert torch.equal(end.tokens[fixed], start.clean[fixed])
    assert torch.equal(end.strength, start.strength)
