"""The denoising loop: predict, step the tokens that are free, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..functional.generators import Generators
from .samplers import Sampler, SchedulerSampler, own_copy
from .state import TokenState, moving_tokens, renoised, token_levels

Velocity = Callable[[TokenState, Tensor], Tensor]


@runtime_checkable
class LevelVelocity(Protocol):
    """A velocity that need not be told the timestep of each token."""

    def at_level(self, state: TokenState, sigma: float, scale: float, conditioned: bool) -> Tensor:
        """Velocity (B, L, C) at `sigma`; tokens of a state with conditions are at `token_levels`."""
        ...


StepEnd = Callable[[int, Tensor, TokenState], TokenState]


def denoise(
    state: TokenState,
    velocity: Velocity,
    scheduler: Any,
    *,
    sampler: Sampler | None = None,
    condition_noise_scale: float = 0.0,
    generator: Generators = None,
    on_step_end: StepEnd | None = None,
    before_step: Callable[[int, Tensor], bool] | None = None,
) -> TokenState:
    """Take a state from noise to latents along the scheduler's noise levels.

    A token that moves at sigma is at sigma: given tokens wait at 1 - strength until sigma comes down to it.
    So one and the same step serves every token that moves, and the others keep their values bit by bit. That is
    the official rule (`denoising_step`) and needs nothing of the scheduler but an Euler step, so that Diffusers'
    flow-matching schedulers serve as well as ours.
    By that rule a token that is given with less than full strength keeps its noise if no scheduled level lies
    below 1 - strength: use more steps, strength 1, or the proportional rule (`TokenState.strength_rule`).

    Args:
        state: Tokens at sigma = 1 (`at_noise_level`).
        velocity: The model, (state, timestep (B,) or (B, L)) -> (B, L, C). Timesteps are per token only where
            the state has conditions. If it has `at_level`, that is called instead.
        scheduler: Holds `timesteps` in [0, 1000] after its `set_timesteps`.
        sampler: Takes the steps, as a copy; the scheduler itself if None.
        condition_noise_scale: Noise on fixed tokens before each step; see `renoised`.
        generator: Source of all noise, one, or a list with one per sample.
        on_step_end: Called after each step with its index, timestep and state; returns the next state.
        before_step: Called before each step with its index and timestep; returns whether to take it. After the
            first False no further step is taken.

    Returns:
        The state after the last step taken.
    """
    sampler = SchedulerSampler(scheduler, generator) if sampler is None else own_copy(sampler)
    run = _Run(velocity, scheduler.config.num_train_timesteps, state.is_conditioned)

    def draw() -> Tensor:
        return randn_tensor(state.tokens.shape, generator, state.tokens.device, state.tokens.dtype)

    sigmas = [*(scheduler.timesteps / run.scale).tolist(), 0.0]
    for index, timestep in enumerate(scheduler.timesteps):
        if before_step is not None and not before_step(index, timestep):
            break
        sigma = sigmas[index]
        if condition_noise_scale > 0 and run.conditioned:
            state = renoised(state, sigma, condition_noise_scale, draw())
        state = run.step(sampler, state, sigma, sigmas[index + 1], draw)
        if on_step_end is not None:
            state = on_step_end(index, timestep, state)
    return state


class _Run:
    """Steps of a sampler on a state: which tokens move, and at what level the model sees each."""

    def __init__(self, velocity: Velocity, scale: float, conditioned: bool) -> None:
        self.velocity = velocity
        self.scale = scale
        self.conditioned = conditioned

    def step(
        self,
        sampler: Sampler,
        state: TokenState,
        sigma: float,
        following: float,
        draw: Callable[[], Tensor],
    ) -> TokenState:
        """The state after one step of the sampler."""
        if not self.conditioned:
            tokens = sampler.step(
                lambda x, level: self._predict(replace(state, tokens=x), level),
                state.tokens,
                sigma,
                following,
                draw,
            )
            return replace(state, tokens=tokens)
        moving = moving_tokens(state, sigma)[..., None]
        step = self._step_proportionally if state.strength_rule == "proportional" else self._step_those_at
        tokens = step(sampler, state, moving, sigma, following, draw)
        return replace(state, tokens=torch.where(moving, tokens, state.tokens))

    def _predict(self, state: TokenState, sigma: float) -> Tensor:
        """The model at a level of the video."""
        if isinstance(self.velocity, LevelVelocity):
            return self.velocity.at_level(state, sigma, self.scale, self.conditioned)
        if self.conditioned:
            return self.velocity(state, token_levels(state, sigma) * self.scale)
        timestep = state.strength.new_full((state.tokens.shape[0],), sigma * self.scale)
        return self.velocity(state, timestep)

    def _step_those_at(
        self,
        sampler: Sampler,
        state: TokenState,
        moving: Tensor,
        sigma: float,
        following: float,
        draw: Callable[[], Tensor],
    ) -> Tensor:
        """The official rule: those that move are at the video's level, the others are left as they are."""

        def predict(x: Tensor, level: float) -> Tensor:
            return self._predict(replace(state, tokens=torch.where(moving, x, state.tokens)), level)

        return sampler.step(predict, state.tokens, sigma, following, draw)

    def _step_proportionally(
        self,
        sampler: Sampler,
        state: TokenState,
        moving: Tensor,
        sigma: float,
        following: float,
        draw: Callable[[], Tensor],
    ) -> Tensor:
        """The proportional rule: a token's level is a share of the video's.

        The sampler sees each token as it would be at the video's own level, as far from its clean prediction as
        that asks; what it returns is brought back. For an Euler step this is LTX-2's arithmetic.
        """
        share = (1 - state.strength)[..., None]
        share = torch.where(share > 0, share, 1.0)  # of fixed tokens nothing is kept

        def clean_at(x: Tensor, level: float) -> Tensor:
            """The clean prediction, held to what is given."""
            tokens = torch.where(moving, x, state.tokens)
            predicted = x - share * level * self._predict(replace(state, tokens=tokens), level)
            return share * predicted + (1 - share) * state.clean

        first = clean_at(state.tokens, sigma)
        whole = first + (state.tokens - first) / share

        def predict(x: Tensor, level: float) -> Tensor:
            if x is whole:
                return (whole - first) / sigma
            clean = first + (clean_at(first + share * (x - first), level) - first) / share
            return (x - clean) / level

        result = sampler.step(predict, whole, sigma, following, draw)
        return first + share * (result - first)
