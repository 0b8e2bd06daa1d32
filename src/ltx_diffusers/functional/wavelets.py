"""The Haar wavelet of videos in time and space: 8 sub-bands of half the frames, rows and columns, and back.

A Haar step along one axis turns neighbours a, b into (a + b) / sqrt(2) and (a - b) / sqrt(2). The transform is
orthonormal: it keeps the sum of squares, and its inverse is its transpose.
"""

from __future__ import annotations

import torch

from ..errors import InputError

BANDS = ("LLL", "LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH")
"""Names of the sub-bands in their order: low or high along frames, rows and columns."""

_SQRT_HALF = 0.5**0.5
_AXES = (-3, -2, -1)


def haar_3d(video: torch.Tensor) -> torch.Tensor:
    """Sub-bands of a video.

    Args:
        video: (..., F, H, W), all three even.

    Returns:
        (8, ..., F / 2, H / 2, W / 2), in the order of `BANDS`.

    Raises:
        InputError: If a size is odd.
    """
    if any(video.shape[axis] % 2 for axis in _AXES):
        raise InputError(
            "the Haar transform needs even numbers of frames, rows and columns", got=tuple(video.shape[-3:])
        )
    bands = video.unsqueeze(0)
    for axis in _AXES:
        first, second = _every_other(bands, axis, 0), _every_other(bands, axis, 1)
        pair = torch.stack([(first + second) * _SQRT_HALF, (first - second) * _SQRT_HALF], dim=1)
        bands = pair.flatten(0, 1)
    return bands


def inverse_haar_3d(bands: torch.Tensor) -> torch.Tensor:
    """The video that `haar_3d` turned into these sub-bands (8, ..., F / 2, H / 2, W / 2).

    Raises:
        InputError: If there aren't 8 sub-bands.
    """
    if bands.shape[0] != len(BANDS):
        raise InputError(
            "the inverse Haar transform needs all sub-bands", got=bands.shape[0], expected=len(BANDS)
        )
    for axis in reversed(_AXES):
        low, high = bands.unflatten(0, (-1, 2)).unbind(1)
        pair = torch.stack([(low + high) * _SQRT_HALF, (low - high) * _SQRT_HALF], dim=axis)
        # The stacked dimension stands behind the axis (axis counts from the end), so they merge in order.
        bands = pair.flatten(axis - 1, axis)
    return bands[0]


def with_even_frames(video: torch.Tensor) -> torch.Tensor:
    """A video (..., F, H, W) with its first frame once more in front if F is odd.

    Videos of this library have 8k + 1 frames, of which the first stands for itself; repeating it leaves the pairs
    (2, 3), (4, 5), ... of the others together and gives a picture no high frequencies in time.
    """
    if video.shape[-3] % 2 == 0:
        return video
    return torch.cat([video.narrow(-3, 0, 1), video], dim=-3)


def _every_other(x: torch.Tensor, axis: int, start: int) -> torch.Tensor:
    index: list[slice] = [slice(None)] * x.ndim
    index[axis] = slice(start, None, 2)
    return x[tuple(index)]
