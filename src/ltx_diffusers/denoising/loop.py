"""The denoising loop: predict, step the tokens that are free, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..functional.generators import Generators
from .state import TokenState, moving_tokens, token_levels

Velocity = Callable[[TokenState, Tensor], Tensor]
StepEnd = Callable[[int, Tensor, TokenState], TokenState]


def denoise(
    state: TokenState,
    velocity: Velocity,
    scheduler: Any,
    *,
    generator: Generators = None,
    on_step_end: StepEnd | None = None,
    before_step: Callable[[int, Tensor], bool] | None = None,
) -> TokenState:
    """Take a state from noise to latents along the scheduler's noise levels.

    A token that moves at sigma is at sigma: given tokens wait at 1 - strength until sigma comes down to it.
    So one and the same step of the scheduler serves every token that moves, and the others keep their values
    bit by bit. That is the official rule (`denoising_step`) and needs nothing of the scheduler but an Euler
    step, so that Diffusers' flow-matching schedulers serve as well as ours.
    By the same rule a token that is given with less than full strength keeps its noise if no scheduled level lies
    below 1 - strength: use more steps, or strength 1.

    Args:
        state: Tokens at sigma = 1 (`at_noise_level`).
        velocity: The model, (state, timestep (B,) or (B, L)) -> (B, L, C). Timesteps are per token only where
            the state has conditions.
        scheduler: Holds `timesteps` in [0, 1000] after its `set_timesteps`.
        generator: Source of the noise of stochastic steps, one, or a list with one per sample.
        on_step_end: Called after each step with its index, timestep and state; returns the next state.
        before_step: Called before each step with its index and timestep; returns whether to take it. After the
            first False no further step is taken.

    Returns:
        The state after the last step taken.
    """
    conditioned = state.is_conditioned
    scale = scheduler.config.num_train_timesteps
    for index, timestep in enumerate(scheduler.timesteps):
        if before_step is not None and not before_step(index, timestep):
            break
        sigma = timestep / scale
        if conditioned:
            model_timestep = token_levels(state, sigma) * scale
        else:
            model_timestep = timestep.expand(state.tokens.shape[0])
        prediction = velocity(state, model_timestep)
        tokens = scheduler.step(prediction, timestep, state.tokens, generator=generator, return_dict=False)[0]
        if conditioned:
            tokens = torch.where(moving_tokens(state, sigma)[..., None], tokens, state.tokens)
        state = replace(state, tokens=tokens)
        if on_step_end is not None:
            state = on_step_end(index, timestep, state)
    return state
