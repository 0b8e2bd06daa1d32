"""Token states and conditions: what starts where, what moves, what comes out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltx_diffusers.denoising.conditions import FirstFrameCondition, conditions
from ltx_diffusers.denoising.state import (
    at_noise_level,
    from_noise,
    mix_noise,
    moving_tokens,
    target_latents,
    target_tokens,
    token_levels,
    velocity_target,
    with_target_tokens,
)
from ltx_diffusers.errors import InputError, RegistrationError
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.functional.latents import pack_latents
from ltx_diffusers.geometry import VideoSize

SIZE = VideoSize(3, 2, 4)
PLACEMENT = Placement(24.0, causal=True)
PER_FRAME = SIZE.height * SIZE.width


def noise_like(batch: int = 2, channels: int = 5) -> torch.Tensor:
    return torch.randn(batch, channels, *SIZE)


def state_of(noise, clean=None):
    return from_noise(noise, PLACEMENT, clean)


def test_a_state_without_conditions_is_its_noise():
    noise = noise_like()
    state = at_noise_level(state_of(noise), 1.0)
    assert state.size == SIZE
    assert state.num_target == 24
    assert not state.is_conditioned
    assert torch.equal(target_latents(state), noise)
    assert torch.equal(token_levels(state, 0.3), torch.full((2, 24), 0.3))


@pytest.mark.parametrize("strength", [1.0, 0.75, 0.0])
def test_first_frame_starts_between_noise_and_latents(strength):
    noise, latents = noise_like(), torch.randn(2, 5, 1, 2, 4)
    state = at_noise_level(FirstFrameCondition(latents, strength).apply_to(state_of(noise)), 1.0)
    expected = noise.clone()
    expected[:, :, :1] = torch.lerp(noise[:, :, :1], latents, strength)
    torch.testing.assert_close(target_latents(state), expected)
    assert torch.equal(state.strength[:, :PER_FRAME], torch.full((2, PER_FRAME), strength))
    assert (state.strength[:, PER_FRAME:] == 0).all()
    assert state.is_conditioned is (strength > 0)


def test_a_fully_given_frame_is_exact():
    latents = torch.randn(2, 5, 1, 2, 4)
    state = at_noise_level(FirstFrameCondition(latents).apply_to(state_of(noise_like())), 1.0)
    assert torch.equal(target_latents(state)[:, :, :1], latents)


def test_one_image_serves_every_video():
    latents = torch.randn(1, 5, 1, 2, 4)
    state = FirstFrameCondition(latents).apply_to(state_of(noise_like()))
    assert torch.equal(state.clean[:, :PER_FRAME], pack_latents(latents).expand(2, -1, -1))


def test_levels_follow_the_official_rule():
    """Token noise is min(sigma, 1 - strength), and a token moves while sigma isn't above its own level."""
    strengths = torch.tensor([0.25, 1.0])
    state = FirstFrameCondition(torch.randn(2, 5, 1, 2, 4), strengths).apply_to(state_of(noise_like()))
    for sigma in (1.0, 0.75, 0.7, 0.01):
        levels = token_levels(state, sigma)
        assert levels[0, 0] == min(sigma, 0.75)
        assert levels[1, 0] == 0
        assert (levels[:, PER_FRAME:] == sigma).all()
        moving = moving_tokens(state, sigma)
        assert moving[0, 0] == (sigma <= 0.75)
        assert not moving[1, 0]
        assert moving[:, PER_FRAME:].all()


def test_training_mixes_every_token_at_its_own_level():
    torch.manual_seed(0)
    noise, clean = noise_like(), noise_like()
    sigma, strength = torch.tensor([0.6, 0.2]), torch.tensor([0.0, 0.9])
    before = FirstFrameCondition(clean[:, :, :1], strength).apply_to(state_of(noise, clean))
    state = at_noise_level(before, sigma)

    expected = torch.empty_like(noise, dtype=torch.float64)
    for video in range(2):
        for frame in range(3):
            level = (
                min(sigma[video].item(), 1 - strength[video].item()) if frame == 0 else sigma[video].item()
            )
            x, e = clean[video, :, frame].double(), noise[video, :, frame].double()
            expected[video, :, frame] = (1 - level) * x + level * e
    torch.testing.assert_close(target_latents(state), expected.float())
    torch.testing.assert_close(velocity_target(before), pack_latents(noise - clean))


def test_a_video_of_strength_0_keeps_what_it_learns():
    clean, other = noise_like(), torch.randn(2, 5, 1, 2, 4)
    state = FirstFrameCondition(other, torch.tensor([0.0, 1.0])).apply_to(state_of(noise_like(), clean))
    assert torch.equal(state.clean[0], pack_latents(clean)[0])
    assert torch.equal(state.clean[1, :PER_FRAME], pack_latents(other)[1])


def test_mixing_takes_a_level_for_each_token():
    clean, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    levels = torch.tensor([[0.0, 0.5, 1.0]] * 2)
    mixed = mix_noise(clean, noise, levels)
    assert torch.equal(mixed[:, 0], clean[:, 0])
    torch.testing.assert_close(mixed[:, 1], (clean + noise)[:, 1] / 2)
    assert torch.equal(mixed[:, 2], noise[:, 2])


def test_extra_tokens_stay_when_the_video_changes():
    state = state_of(noise_like())
    extra = torch.randn(2, 7, 5)
    longer = replace(state, tokens=torch.cat([state.tokens, extra], dim=1), num_extra=7)
    changed = with_target_tokens(longer, torch.zeros_like(state.tokens))
    assert torch.equal(changed.tokens[:, 24:], extra)
    assert (target_tokens(changed) == 0).all()
    assert torch.equal(target_latents(longer), target_latents(state))


@pytest.mark.parametrize(
    ("latents", "strength", "message"),
    [
        (torch.zeros(2, 5, 1, 4, 2), 1.0, "don't fit the video"),
        (torch.zeros(3, 5, 1, 2, 4), 1.0, "don't fit the video"),
        (torch.zeros(2, 5, 2, 2, 4), 1.0, "don't fit the video"),
        (torch.zeros(2, 5, 1, 2, 4), 1.5, r"in \[0, 1\]"),
        (torch.zeros(2, 5, 1, 2, 4), torch.ones(3), "one per video"),
    ],
)
def test_first_frames_that_do_not_fit(latents, strength, message):
    with pytest.raises(InputError, match=message):
        FirstFrameCondition(latents, strength).apply_to(state_of(noise_like()))


def test_states_that_do_not_fit():
    with pytest.raises(InputError, match="differ in shape"):
        from_noise(noise_like(1), PLACEMENT, noise_like(2))


def test_conditions_are_registered_by_what_they_can():
    assert conditions.get("first-frame") is FirstFrameCondition
    with pytest.raises(RegistrationError, match="apply_to"):
        conditions.register("nothing")(object)
