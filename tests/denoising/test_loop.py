"""The loop: the official sampler's steps, given tokens, callbacks and interrupts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ltx_diffusers.denoising.conditions import FirstFrameCondition
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance
from ltx_diffusers.denoising.loop import denoise
from ltx_diffusers.denoising.samplers import samplers
from ltx_diffusers.denoising.state import (
    STRENGTH_RULES,
    at_noise_level,
    from_noise,
    renoised,
    target_latents,
)
from ltx_diffusers.denoising.velocity import GuidedVelocity, TextFeatures
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.schedulers.flow_match import LTXFlowMatchScheduler

SIZE = VideoSize(3, 2, 4)
STEPS = 6


def scheduler_of(kind: str, **settings):
    if kind == "ours":
        scheduler = LTXFlowMatchScheduler(**settings)
        scheduler.set_timesteps(STEPS)
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(**settings)
        scheduler.set_timesteps(sigmas=[1 - index / STEPS for index in range(STEPS)])
    return scheduler


def state_of(strength=None, batch=2, seed=0, rule="official"):
    torch.manual_seed(seed)
    noise, latents = torch.randn(batch, 5, *SIZE), torch.randn(batch, 5, 1, 2, 4)
    state = from_noise(noise, Placement(24.0, causal=True), strength_rule=rule)
    if strength is not None:
        state = FirstFrameCondition(latents, strength).apply_to(state)
    return at_noise_level(state, 1.0)


def velocity(state, timestep):
    """Some function of tokens and timesteps that treats every token by itself."""
    level = timestep / 1000
    level = level[..., None] if level.ndim == 2 else level[:, None, None]
    return torch.sin(3 * state.tokens) * (0.5 + level)


@pytest.mark.parametrize("kind", ["ours", "diffusers"])
def test_without_conditions_it_is_euler(kind):
    scheduler = scheduler_of(kind)
    expected = state_of().tokens.double()
    sigmas = scheduler.sigmas.double()
    for sigma, following in itertools.pairwise(sigmas):
        expected = expected + (following - sigma) * torch.sin(3 * expected) * (0.5 + sigma)
    result = denoise(state_of(), velocity, scheduler)
    torch.testing.assert_close(result.tokens, expected.float(), atol=1e-5, rtol=0)


def test_timesteps_are_per_token_only_with_conditions():
    shapes = []

    def spy(state, timestep):
        shapes.append(tuple(timestep.shape))
        return torch.zeros_like(state.tokens)

    denoise(state_of(), spy, scheduler_of("ours"))
    denoise(state_of(1.0), spy, scheduler_of("ours"))
    assert shapes == [(2,)] * STEPS + [(2, 24)] * STEPS


@pytest.mark.parametrize("kind", ["ours", "diffusers"])
@pytest.mark.parametrize("settings", [{}, {"stochastic_sampling": True}], ids=["euler", "stochastic"])
def test_fixed_tokens_stay_bit_by_bit(kind, settings):
    state = state_of(1.0)
    result = denoise(
        state, velocity, scheduler_of(kind, **settings), generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(target_latents(result)[:, :, :1], target_latents(state)[:, :, :1])
    assert not torch.isclose(target_latents(result)[:, :, 1:], target_latents(state)[:, :, 1:]).all()


@pytest.mark.parametrize("strength", [1.0, 0.7, 0.25])
def test_the_official_steps(strength):
    """Against the official pipeline's own step, which takes per-token levels, its mask and its scheduler."""
    official = pytest.importorskip("ltx_video.pipelines.pipeline_ltx_video").LTXVideoPipeline
    from ltx_video.schedulers.rf import RectifiedFlowScheduler

    reference = RectifiedFlowScheduler(sampler="LinearQuadratic")
    reference.set_timesteps(STEPS, samples_shape=(1, 5, *SIZE))
    ours = scheduler_of("ours")
    torch.testing.assert_close(reference.timesteps, ours.sigmas[:-1], atol=1e-6, rtol=0)

    # One video: the official step looks at the first one's levels only.
    state = state_of(strength, batch=1)
    tokens, mask = state.tokens, state.strength
    for t in reference.timesteps:
        levels = torch.min(t.expand(1)[:, None], 1 - mask)
        prediction = velocity(replace(state, tokens=tokens), levels * 1000)
        tokens = official.denoising_step(
            SimpleNamespace(scheduler=reference), tokens, prediction, levels, mask, t, {}
        )
    result = denoise(state, velocity, ours)
    torch.testing.assert_close(result.tokens, tokens, atol=1e-5, rtol=0)
    moved = not torch.equal(target_latents(result)[:, :, 0], target_latents(state)[:, :, 0])
    # By that rule a given token's noise stays in it if no scheduled level lies below it.
    assert moved is (1 - strength > reference.timesteps[-1].item())


@pytest.mark.parametrize("strength", [None, 1.0, 0.5])
@pytest.mark.parametrize("settings", [{}, {"stochastic_sampling": True}], ids=["euler", "stochastic"])
def test_a_batch_is_its_videos(strength, settings):
    state = state_of(strength)

    def run(state, seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return denoise(state, velocity, scheduler_of("ours", **settings), generator=generators).tokens

    together = run(state, [3, 4])
    for row, seed in enumerate([3, 4]):
        rows = slice(row, row + 1)
        alone = replace(
            state,
            tokens=state.tokens[rows],
            strength=state.strength[rows],
            clean=state.clean[rows],
            coords=state.coords[rows],
        )
        torch.testing.assert_close(run(alone, [seed]), together[rows])


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_the_proportional_rule_is_ltx_2s_arithmetic(strength):
    """Oracle: levels (1 - s) sigma, the clean prediction mixed with what is given, an Euler step of all."""
    state = state_of(strength, rule="proportional")
    share = (1 - state.strength)[..., None]
    x = state.tokens
    ours = scheduler_of("ours")
    for sigma, following in itertools.pairwise(ours.sigmas.tolist()):
        levels = (1 - state.strength) * sigma
        clean = x - levels[..., None] * velocity(replace(state, tokens=x), levels * 1000)
        clean = clean * share + state.clean * (1 - share)
        x = x + (x - clean) / sigma * (following - sigma)
    for sampler in (None, samplers.get("euler")()):
        result = denoise(state, velocity, ours, sampler=sampler).tokens
        moved = state.strength < 1
        torch.testing.assert_close(result[moved], x[moved], atol=1e-5, rtol=1e-4)
        assert torch.equal(result[~moved], state.tokens[~moved])


@pytest.mark.parametrize("name", samplers.list())
def test_the_rules_agree_where_nothing_is_given_in_part(name):
    results = [
        denoise(
            replace(state_of(1.0), strength_rule=rule),
            velocity,
            scheduler_of("ours"),
            sampler=samplers.get(name)(),
            generator=torch.Generator().manual_seed(5),
        ).tokens
        for rule in STRENGTH_RULES
    ]
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


def test_proportional_tokens_of_a_perfect_model_end_at_what_is_given():
    """With noise in every step too: a token's level is its share of the video's at every step."""
    state = state_of(0.4, rule="proportional")
    seen = []

    def perfect(at, timestep):
        level = timestep[..., None] / 1000
        seen.append(((at.tokens - (1 - level) * at.clean)[:, :8] / level[:, :8]).std().item())
        return (at.tokens - at.clean) / level

    for name in samplers.list():
        result = denoise(
            state,
            perfect,
            scheduler_of("ours"),
            sampler=samplers.get(name)(),
            generator=torch.Generator().manual_seed(5),
        )
        torch.testing.assert_close(result.tokens, state.clean, atol=1e-4, rtol=0)
    assert all(0.7 < deviation < 1.3 for deviation in seen)


def test_fixed_tokens_get_the_official_noise():
    official = pytest.importorskip("ltx_video.pipelines.pipeline_ltx_video").LTXVideoPipeline
    state, noise = state_of(1.0), torch.randn(2, 24, 5)
    generator = torch.Generator().manual_seed(0)
    expected = official.add_noise_to_image_conditioning_latents(
        0.7, state.tokens, state.tokens, 0.15, state.strength, generator
    )
    drawn = torch.randn(state.tokens.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(renoised(state, 0.7, 0.15, drawn).tokens, expected)
    assert not torch.equal(renoised(state, 0.7, 0.15, noise).tokens[:, :8], state.tokens[:, :8])

    seen = []
    denoise(
        state,
        lambda at, timestep: seen.append(at.tokens[:, :8]) or torch.zeros_like(at.tokens),
        scheduler_of("ours"),
        condition_noise_scale=0.15,
        generator=generator,
    )
    deviations = [(tokens - state.clean[:, :8]).std().item() for tokens in seen]
    expected = [0.15 * sigma**2 for sigma in scheduler_of("ours").sigmas[:-1].tolist()]
    assert deviations == pytest.approx(expected, rel=0.3)


def test_callbacks_see_and_change_every_step():
    scheduler, seen = scheduler_of("ours"), []

    def halve(index, timestep, state):
        seen.append((index, timestep.item()))
        return replace(state, tokens=torch.zeros_like(state.tokens)) if index == STEPS - 1 else state

    result = denoise(state_of(), velocity, scheduler, on_step_end=halve)
    assert seen == list(enumerate(scheduler.timesteps.tolist()))
    assert (result.tokens == 0).all()


def test_an_interrupt_keeps_what_is_done():
    taken = []

    def spy(state, timestep):
        taken.append(timestep)
        return velocity(state, timestep)

    result = denoise(state_of(), spy, scheduler_of("ours"), before_step=lambda index, timestep: index < 2)
    assert len(taken) == 2
    scheduler = scheduler_of("ours")
    expected = state_of()
    for timestep in scheduler.timesteps[:2]:
        tokens = scheduler.step(velocity(expected, timestep.expand(2)), timestep, expected.tokens).prev_sample
        expected = replace(expected, tokens=tokens)
    torch.testing.assert_close(result.tokens, expected.tokens)


def test_passes_stand_in_the_batch_in_order():
    """Negative rows first; each row gets its text, its coordinates and its timesteps."""

    class Echo(torch.nn.Module):
        def forward(self, hidden_states, encoder_hidden_states, timestep, encoder_attention_mask, **rest):
            self.seen = timestep, encoder_attention_mask, rest["video_coords"]
            return (hidden_states * encoder_hidden_states.mean(dim=(1, 2)).view(-1, 1, 1),)

    state = state_of(1.0)
    text = {
        "positive": TextFeatures(torch.tensor([2.0, 3.0]).view(2, 1, 1), torch.tensor([[1], [2]])),
        "negative": TextFeatures(torch.tensor([5.0, 7.0]).view(2, 1, 1), torch.tensor([[3], [4]])),
    }
    model = Echo()
    timestep = torch.rand(2, 24)
    guided = GuidedVelocity(model, text, ClassifierFreeGuidance(2.0))(state, timestep)
    weight = torch.tensor([5 + 2 * (2 - 5.0), 7 + 2 * (3 - 7.0)]).view(2, 1, 1)
    torch.testing.assert_close(guided, weight * state.tokens)
    assert model.seen[1].flatten().tolist() == [3, 4, 1, 2]
    assert torch.equal(model.seen[0], torch.cat([timestep, timestep]))
    assert torch.equal(model.seen[2], torch.cat([state.coords, state.coords]))
