"""Noise levels in the forms that callers give them: lists, timesteps of samples or tokens, and fresh
noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..errors import InputError
from ..functional.generators import Generators

# Released files write the allowed noise levels with 4 digits (0.99375 as 0.9937).
ALLOWED_TOLERANCE = 1e-4

Levels = Sequence[float] | np.ndarray | Tensor


def listed_levels(values: Levels) -> Tensor:
    """An explicit list as float64 on the CPU, (N,), without a closing 0.

    Raises:
        InputError: If the values aren't numbers.
    """
    try:
        levels = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            "sigmas and timesteps must be lists of numbers", got=values, fix=str(error)
        ) from None
    if levels.ndim == 1 and levels.numel() > 1 and levels[-1] == 0:
        levels = levels[:-1]
    return levels


def check_allowed(levels: Tensor, allowed: Sequence[float] | None) -> None:
    """Refuse noise levels that a distilled model wasn't trained for.

    Args:
        levels: Sigmas (N,).
        allowed: Sigmas with 4 digits, or None for any.

    Raises:
        InputError: If one of `levels` isn't among `allowed`.
    """
    if allowed is None:
        return
    for level in levels.tolist():
        if all(abs(level - value) > ALLOWED_TOLERANCE for value in allowed):
            raise InputError(
                "this model was distilled for certain noise levels only",
                got=f"sigma {level:.4f}",
                expected=f"sigmas out of {list(allowed)}",
                fix="use the model's default number of steps, or give such a list",
            )


def sigma_of(
    timestep: float | Tensor, sample: Tensor, num_train_timesteps: int, *, per_token: bool
) -> Tensor:
    """Noise levels of timesteps, on the sample's device.

    Args:
        timestep: Timesteps in [0, num_train_timesteps]: one or (B,), or (B, L) or
            (B, 1) if `per_token`.
        sample: The sample they belong to, (B, ...), or (B, L, C) if `per_token`.
        num_train_timesteps: Timestep of sigma 1.
        per_token: Which of the two it is.

    Returns:
        Sigmas, float32, in `timestep`'s shape.

    Raises:
        InputError: If the shapes don't fit, or the timesteps are integers or of low precision.
    """
    timestep = torch.as_tensor(timestep)
    if timestep.dtype not in (torch.float32, torch.float64):
        raise InputError(
            "timesteps must be float32 or float64 values, neither rounded nor indices", got=timestep.dtype
        )
    batch = tuple(sample.shape[:1])
    fits = [tuple(sample.shape[:2]), (*batch, 1)] if per_token else [(), (1,), batch]
    if tuple(timestep.shape) not in fits or (per_token and sample.ndim != 3):
        raise InputError(
            "the timesteps don't fit the sample",
            got=f"timesteps {tuple(timestep.shape)}, sample {tuple(sample.shape)}",
            expected="(B, L) for a sample (B, L, C)" if per_token else "one timestep or (B,)",
        )
    return timestep.to(sample.device, torch.float32) / num_train_timesteps


def append_axes(sigma: Tensor, sample: Tensor) -> Tensor:
    """`sigma` with axes appended until it broadcasts over `sample`."""
    return sigma.reshape(sigma.shape + (1,) * (sample.ndim - sigma.ndim))


def draw_noise(sample: Tensor, generator: Generators) -> Tensor:
    """Gaussian noise like `sample`, from one generator or from one per sample.

    Raises:
        InputError: If a list of generators isn't as long as the batch.
    """
    if isinstance(generator, Sequence):
        if len(generator) != sample.shape[0]:
            raise InputError(
                "the number of generators differs from the batch",
                got=len(generator),
                expected=sample.shape[0],
            )
        generator = list(generator)
    return randn_tensor(tuple(sample.shape), generator=generator, device=sample.device, dtype=sample.dtype)
