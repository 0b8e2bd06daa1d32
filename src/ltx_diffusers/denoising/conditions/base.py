"""What a condition is, the registry of conditions, and what their files share."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ...errors import InputError, RegistrationError
from ...functional.latents import pack_latents
from ...registry import Registry
from ..state import TokenState


class Condition(Protocol):
    """Something given to the model besides the prompt: a first frame, a keyframe, a reference.

    A condition is a pure function on states whose tokens are noise still. It may set `strength` and `clean`
    of target tokens, or append tokens with their own coordinates, strength and clean latents (raising
    `num_extra`; `append_tokens`). It must not look at the other conditions: they are applied in the order given.
    """

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with this condition in it.

        Raises:
            InputError: If the condition doesn't fit the state's size or batch.
        """
        ...


def _check_condition(name: str, entry: type[Condition]) -> None:
    if not callable(getattr(entry, "apply_to", None)):
        raise RegistrationError(
            f"the condition {name!r} must be a class with a method apply_to(state) -> state",
            got=getattr(entry, "__name__", entry),
        )


conditions: Registry[type[Condition]] = Registry("condition", _check_condition)


def check_latents(latents: Tensor, state: TokenState, *, whole_frames: bool = True) -> None:
    """Check the latents of extra tokens.

    Args:
        latents: (B or 1, C, f, h, w).
        state: Where they go.
        whole_frames: Whether h and w must be the target's.

    Raises:
        InputError: If they don't fit.
    """
    batch, _, channels = state.tokens.shape
    fits = latents.ndim == 5 and latents.shape[0] in (1, batch) and latents.shape[1] == channels
    size = (state.size.height, state.size.width)
    if not fits or (whole_frames and tuple(latents.shape[3:]) != size):
        raise InputError(
            "the condition's latents don't fit the video",
            got=tuple(latents.shape),
            expected=f"(1 or {batch}, {channels}, f, {size[0]}, {size[1]})"
            if whole_frames
            else f"(1 or {batch}, {channels}, f, h, w)",
        )


def strength_of_tokens(strength: float | Tensor, latents: Tensor, batch_size: int) -> Tensor:
    """Strengths (B, f*h*w) in float32 of the tokens of latents (B or 1, C, f, h, w).

    Args:
        strength: One for all videos, one each (B,), or one for each latent (B or 1, f, h, w).
        latents: What it is the strength of.
        batch_size: Number of videos B.

    Raises:
        InputError: If its shape is another one, or a value is outside [0, 1].
    """
    strength = torch.as_tensor(strength, dtype=torch.float32)
    size = tuple(latents.shape[2:])
    per_latent = strength.ndim == 4 and tuple(strength.shape[1:]) == size
    per_video = tuple(strength.shape) == (batch_size,)
    if not (strength.ndim == 0 or per_video or (per_latent and strength.shape[0] in (1, batch_size))):
        raise InputError(
            "the strength must be one number, one per video or one per latent",
            got=f"shape {tuple(strength.shape)}",
            expected=f"({batch_size},) or ({batch_size}, {', '.join(map(str, size))})",
        )
    if not bool(((strength >= 0) & (strength <= 1)).all()):
        raise InputError("the strength must be in [0, 1]", got=strength.tolist())
    tokens = strength.flatten(1) if per_latent else strength.reshape(-1, 1)
    return tokens.expand(batch_size, latents[0, 0].numel())


def append_tokens(state: TokenState, latents: Tensor, strength: float | Tensor, coords: Tensor) -> TokenState:
    """The state with given tokens behind its own, which only serve as context.

    Args:
        state: Without them.
        latents: Their clean latents (B or 1, C, f, h, w), normalised.
        strength: One for all videos or one each (B,).
        coords: (B, 3, f*h*w).

    Raises:
        InputError: If a strength is outside [0, 1].
    """
    batch = state.tokens.shape[0]
    strengths = strength_of_tokens(strength, latents, batch).to(state.strength.device)
    clean = pack_latents(latents).to(state.clean).expand(batch, -1, -1)
    return replace(
        state,
        tokens=torch.cat([state.tokens, torch.zeros_like(clean)], dim=1),
        strength=torch.cat([state.strength, strengths], dim=1),
        clean=torch.cat([state.clean, clean], dim=1),
        coords=torch.cat([state.coords, coords], dim=2),
        num_extra=state.num_extra + clean.shape[1],
    )
