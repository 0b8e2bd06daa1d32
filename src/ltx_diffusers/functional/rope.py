"""Rotary position embedding over seconds and pixels (paper section 2.2, "RoPE").

Each axis gets dim // 6 frequencies that grow exponentially from 1 to theta, times pi/2; a coordinate is first
divided by its largest value and moved to [-1, 1]. Angles of the three axes alternate within a frequency
(f0: t, y, x, f1: t, y, x, ...), each holds for a pair of neighbouring channels, and the dim % 6 channels that
are left over come first and aren't rotated. The rotation acts on the full width of queries and keys, before
heads are split.
"""

from __future__ import annotations

import math

import torch

from ..errors import InputError

MAX_POSITION = (20, 2048, 2048)
"""The (seconds, rows, columns) that become 1: the extent that the released models were trained for."""


def rotary_embedding(
    coords: torch.Tensor,
    dim: int,
    theta: float = 10000.0,
    max_position: tuple[float, float, float] = MAX_POSITION,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the angles by which the channels of each token are turned.

    Args:
        coords: (B, 3, L) in seconds and pixels (see `functional.coordinates`).
        dim: Width of queries and keys over all heads; even.
        theta: Highest frequency.
        max_position: Largest coordinate on each axis.

    Returns:
        (cos, sin), each (B, L, dim). fp32, because angles reach 15,000, where bf16 can't tell turns apart;
        float64 coordinates give float64.

    Raises:
        InputError: If the coordinates aren't (B, 3, L) or the width is odd.
    """
    angles, rest = _angles(coords, dim, theta, max_position)
    angles = angles.repeat_interleave(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    if rest:
        cos = torch.cat([torch.ones_like(cos[..., :1]).expand(-1, -1, rest), cos], dim=-1)
        sin = torch.cat([torch.zeros_like(sin[..., :1]).expand(-1, -1, rest), sin], dim=-1)
    return cos, sin


def rotary_turns(
    coords: torch.Tensor,
    dim: int,
    theta: float = 10000.0,
    max_position: tuple[float, float, float] = MAX_POSITION,
) -> torch.Tensor:
    """What `rotary_embedding` gives as complex numbers, cos + i sin of each pair of channels: half the memory.

    Turning is one product then (`turn_`), which no compiler fuses, though.

    Args:
        coords: As in `rotary_embedding`, as all others.
        dim: Width of queries and keys over all heads; even.
        theta: Highest frequency.
        max_position: Largest coordinate on each axis.

    Returns:
        (B, L, dim / 2), complex64, or complex128 for float64 coordinates.

    Raises:
        InputError: If the coordinates aren't (B, 3, L) or the width is odd.
    """
    angles, rest = _angles(coords, dim, theta, max_position)
    turns = torch.polar(torch.ones_like(angles), angles)
    return torch.cat([torch.ones_like(turns[..., :1]).expand(-1, -1, rest // 2), turns], dim=-1)


def _angles(
    coords: torch.Tensor, dim: int, theta: float, max_position: tuple[float, float, float]
) -> tuple[torch.Tensor, int]:
    """Angle of each pair of channels that is turned (B, L, dim // 6 * 3), and the number of channels left over."""
    if coords.ndim != 3 or coords.shape[1] != 3:
        raise InputError("coordinates must be (B, 3, L)", got=tuple(coords.shape))
    if dim % 2:
        raise InputError("the rotary embedding turns pairs of channels, so its width must be even", got=dim)
    dtype = torch.promote_types(coords.dtype, torch.float32)
    axes = zip(coords.to(dtype).unbind(1), max_position, strict=True)
    position = torch.stack([axis / largest for axis, largest in axes], dim=-1)  # (B, L, 3), 0 to 1
    exponents = torch.linspace(0, 1, dim // 6, dtype=dtype, device=coords.device)
    angles = (position * 2 - 1)[..., None, :] * (theta**exponents * (math.pi / 2))[:, None]
    return angles.flatten(2), dim % 6


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn neighbouring channels (2i, 2i+1) of `x` by their angles.

    Args:
        x: Queries or keys (B, L, dim), all heads side by side.
        cos: (B, L, dim) from `rotary_embedding`.
        sin: (B, L, dim) from `rotary_embedding`.

    Returns:
        (B, L, dim) in the type of `x`; computed in the wider type of `x` and the angles.
    """
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    quarter_turn = torch.stack([-second, first], dim=-1).flatten(-2)
    return (x * cos + quarter_turn * sin).to(x.dtype)


def turn_(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """`apply_rotary` in place, by `rotary_turns`.

    Args:
        x: Queries or keys (B, L, dim), contiguous, fp32 or float64 as the turns are. Overwritten.
        turns: (B or 1, L, dim / 2).

    Returns:
        `x`.
    """
    torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(turns)
    return x
