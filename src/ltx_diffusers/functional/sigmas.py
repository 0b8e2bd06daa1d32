"""Noise schedules as pure maths: the noise levels (sigmas) that a sampler visits, shifted by resolution.

A sigma is the share of noise in a rectified-flow sample, x = (1 - sigma) x0 + sigma e, so 1 is pure noise and
0 is clean. A schedule of N steps is a float64 tensor (N,) that starts at 1 and falls strictly; the final 0 is
left to the scheduler. Schedules are registered by name in `schedules`; a new one is a function of `num_steps`
and options.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import InputError, RegistrationError
from ..registry import Registry

Number = TypeVar("Number", float, Tensor)

# Noise levels closer than this count as one level (the margin of the released sampler).
SIGMA_MARGIN = 1e-6


def _check_schedule_entry(name: str, entry: Callable[..., Tensor]) -> None:
    if not callable(entry):
        raise RegistrationError(
            f"the schedule {name!r} must be a function of num_steps and options", got=type(entry).__name__
        )


schedules: Registry[Callable[..., Tensor]] = Registry("schedule", _check_schedule_entry)


@schedules.register("uniform")
def uniform(num_steps: int) -> Tensor:
    """Equal steps from 1 to 1/N: the base of releases 0.9.0 and 0.9.1.

    Returns:
        Sigmas (N,), float64, falling.

    Raises:
        InputError: If `num_steps` is less than 1.
    """
    check_count("the number of steps", num_steps)
    return torch.arange(num_steps, 0, -1, dtype=torch.float64) / num_steps


@schedules.register("linear-quadratic")
def linear_quadratic(num_steps: int, threshold: float = 0.025, linear_steps: int | None = None) -> Tensor:
    """Small equal steps at high noise, then steps that grow quadratically: releases 0.9.5 and later.

    The noise removed after i steps is linear up to `threshold` at i = `linear_steps`, and continues from
    there as the parabola with the same slope that reaches 1 at i = N (MovieGen, arXiv 2410.13720, section
    3.4.2).

    Args:
        num_steps: N, at least 1. One step is the schedule [1].
        threshold: Share of the noise, in (0, 1), that the linear part removes.
        linear_steps: Steps of the linear part, 1 to N - 1; half of N if None.

    Returns:
        Sigmas (N,), float64, falling.

    Raises:
        InputError: If a number is out of range.
    """
    check_count("the number of steps", num_steps)
    if not 0 < threshold < 1:
        raise InputError("the threshold of a linear-quadratic schedule must be in (0, 1)", got=threshold)
    if num_steps == 1:
        return torch.ones(1, dtype=torch.float64)
    linear_steps = num_steps // 2 if linear_steps is None else linear_steps
    if not 1 <= linear_steps < num_steps:
        raise InputError(
            "the linear part of a linear-quadratic schedule has too few or too many steps",
            got=f"{linear_steps} of {num_steps}",
            expected=f"1 to {num_steps - 1}",
        )
    slope = threshold / linear_steps
    quadratic_steps = num_steps - linear_steps
    curvature = (1 - threshold - slope * quadratic_steps) / quadratic_steps**2
    step = torch.arange(num_steps, dtype=torch.float64)
    beyond = (step - linear_steps).clamp(min=0)
    return 1 - (slope * step + curvature * beyond**2)


@schedules.register("constant-shift")
def constant_shift(num_steps: int, shift: float = 1.0) -> Tensor:
    """Uniform steps, shifted by one factor for every resolution.

    Args:
        num_steps: N, at least 1.
        shift: Factor on the odds sigma / (1 - sigma), > 0; above 1 towards noise (Diffusers' `shift`; the
            official scheduler's `shift` is its logarithm).

    Returns:
        Sigmas (N,), float64, falling.

    Raises:
        InputError: If a number is out of range.
    """
    return shift_odds(uniform(num_steps), shift)


def shift_odds(sigmas: Tensor, factor: float) -> Tensor:
    """Multiply the odds sigma / (1 - sigma) by `factor`: the form that all resolution shifts share.

    SD3 (arXiv 2403.03206, equation 23) has factor e^mu; simple diffusion (arXiv 2301.11093) has the ratio of
    the token counts. 0 and 1 stay where they are.

    Raises:
        InputError: If the factor isn't positive.
    """
    if not factor > 0:
        raise InputError("the factor of a noise shift must be positive", got=factor)
    noise = factor * sigmas
    return noise / (noise + (1 - sigmas))


def sd3_mu(
    num_tokens: Number,
    *,
    base_tokens: int = 1024,
    max_tokens: int = 4096,
    base_shift: float = 0.95,
    max_shift: float = 2.05,
    clamp: bool = False,
) -> Number:
    """The logarithm of the shift factor, on a line in the token count: SD3's shift with LTX-Video's numbers.

    Args:
        num_tokens: Tokens of a sample: an int, or a tensor (B,) of them.
        base_tokens, base_shift: One point of the line.
        max_tokens, max_shift: The other point.
        clamp: Hold mu between the two points; otherwise the line goes on, as in the released model.

    Returns:
        mu, a float or a tensor as `num_tokens` is.
    """
    mu = base_shift + (max_shift - base_shift) * (num_tokens - base_tokens) / (max_tokens - base_tokens)
    return clamp_mu(mu, base_shift, max_shift) if clamp else mu


def clamp_mu(mu: Number, base_shift: float, max_shift: float) -> Number:
    """Hold mu between the two shifts, whichever is the larger."""
    low, high = sorted((base_shift, max_shift))
    return mu.clamp(low, high) if isinstance(mu, Tensor) else min(max(mu, low), high)


def stretch_to_terminal(sigmas: Tensor, terminal: float) -> Tensor:
    """Scale the distances from 1 so that the last sigma becomes `terminal` (releases 0.9.0 and 0.9.1: 0.1).

    A schedule that never leaves 1 (one step) stays as it is, since no scale can move it.

    Raises:
        InputError: If `terminal` isn't in (0, 1).
    """
    if not 0 < terminal < 1:
        raise InputError("the terminal sigma must be in (0, 1)", got=terminal)
    removed = 1 - sigmas
    if removed[-1] == 0:
        return sigmas
    return 1 - removed * ((1 - terminal) / removed[-1])


def next_sigmas(sigmas: Tensor, current: Tensor) -> Tensor:
    """The largest scheduled noise level below each given one; a level of 0 stays.

    Args:
        sigmas: The schedule with its final 0, (N + 1,), falling.
        current: Noise levels of any shape; they need not be scheduled ones.

    Returns:
        Noise levels like `current`.
    """
    rising = sigmas.flip(0)
    levels_below = torch.searchsorted(rising, (current - SIGMA_MARGIN).contiguous())
    # `take`, since indexing with a single tensor index would copy it to the host.
    return rising.take((levels_below - 1).clamp(min=0))


def check_count(what: str, count: int) -> None:
    """Refuse counts below 1.

    Raises:
        InputError: If `count` isn't a whole number of at least 1.
    """
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
        raise InputError(f"{what} must be a whole number of at least 1", got=repr(count))


def check_schedule(sigmas: Tensor) -> None:
    """Refuse anything but noise levels in (0, 1] that fall by more than the sampler's margin of 1e-6.

    Args:
        sigmas: Noise levels without the final 0, (N,).

    Raises:
        InputError: If they aren't.
    """
    if sigmas.ndim != 1 or sigmas.numel() == 0:
        raise InputError(
            "a schedule must be a list of noise levels",
            got=f"shape {tuple(sigmas.shape)}",
            expected="(N,), N >= 1",
        )
    if not bool(torch.all((sigmas > 0) & (sigmas <= 1))):
        raise InputError(
            "a noise level is out of range",
            got=_short(sigmas),
            expected="sigmas in (0, 1], timesteps in (0, 1000]",
        )
    if not bool(torch.all(sigmas[:-1] - sigmas[1:] > SIGMA_MARGIN)):
        raise InputError(
            f"noise levels must fall, by more than {SIGMA_MARGIN} each",
            got=_short(sigmas),
            fix="sort them from noise to clean, drop doubles, or use fewer steps",
        )


def _short(sigmas: Tensor, most: int = 8) -> str:
    shown = ", ".join(f"{value:.6g}" for value in sigmas[:most].tolist())
    return f"[{shown}{', ...' if sigmas.numel() > most else ''}]"
