"""How alike neighbouring latents are: the measure behind SSVAE's local correlation regularisation.

(arXiv 2512.05394; the windows and constants are those of its published training code.)
"""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import InputError

Average = Literal["average", "frames", "windows"]
_STD_EPS = 1e-6
_NORM_EPS = 1e-8


def standardize_channels(latents: torch.Tensor, *, over_batch: bool = True) -> torch.Tensor:
    """Latents (B, C, F, H, W) with mean 0 and deviation 1 per channel; no gradient flows through the statistics.

    Args:
        latents: Latents, usually posterior means.
        over_batch: Statistics of the whole batch, or of each sample.
    """
    axes = (0, 2, 3, 4) if over_batch else (2, 3, 4)
    fixed = latents.detach()
    mean = fixed.mean(axes, keepdim=True)
    # The unbiased deviation of a single value would be NaN. Which one is taken doesn't matter for the correlation.
    std = fixed.std(axes, keepdim=True, unbiased=False)
    return (latents - mean) / (std + _STD_EPS)


def window_correlation(latents: torch.Tensor, window: tuple[int, int, int]) -> torch.Tensor:
    """Mean Pearson correlation, across channels, of the pairs of latents that share a window.

    With N unit vectors v of a window, sum_{i<j} v_i.v_j = (|sum v|^2 - sum |v|^2) / 2, which is what is computed. The
    window's constant part holds the share (1 + (N - 1) rho) / N of its energy.

    Args:
        latents: (B, C, F, H, W); each (C,) is a vector.
        window: Frames, rows and columns of the windows, which don't overlap.

    Returns:
        Mean over pairs and windows, (B,).

    Raises:
        InputError: If the windows don't fill the latents, or hold a single latent.
    """
    sizes = latents.shape[2:]
    if any(size % side for size, side in zip(sizes, window, strict=True)):
        raise InputError(
            "the windows of local correlation must fill the latents",
            got=f"latents of {'x'.join(map(str, sizes))}, windows of {'x'.join(map(str, window))}",
            fix="choose another size of the clips, or other windows",
        )
    count = window[0] * window[1] * window[2]
    if count < 2:
        raise InputError("a window of local correlation needs two latents or more", got=window)
    centred = latents - latents.mean(1, keepdim=True)
    vectors = centred / (centred.norm(dim=1, keepdim=True) + _NORM_EPS)
    grid = vectors.unflatten(4, (-1, window[2])).unflatten(3, (-1, window[1])).unflatten(2, (-1, window[0]))
    total = grid.sum((3, 5, 7)).square().sum(1)
    own = grid.square().sum((1, 3, 5, 7))
    return ((total - own) / (count * (count - 1))).flatten(1).mean(1)


def local_correlation(
    latents: torch.Tensor,
    window: tuple[int, int, int] = (2, 2, 2),
    *,
    average: Average = "average",
    over_batch: bool = True,
) -> torch.Tensor:
    """Local correlation of the latents of causal videos, whose first latent frame stands for itself.

    Args:
        latents: (B, C, F, H, W); F = 1 is a picture.
        window: Windows of the frames behind the first; the first frame's are as high and wide, one frame deep.
        average: How the first frame's value and that of the others are put together: "average" is their mean, "frames"
            and "windows" weigh them by the number of latent frames or of windows.
        over_batch: Whether channels are standardised over the batch, or over each sample.

    Returns:
        Correlation of each sample, (B,), at most 1; about 0 for noise.

    Raises:
        InputError: As in `window_correlation`.
    """
    latents = standardize_channels(latents, over_batch=over_batch)
    first = window_correlation(latents[:, :, :1], (1, *window[1:]))
    frames = latents.shape[2]
    if frames == 1:
        return first
    others = window_correlation(latents[:, :, 1:], window)
    share = {
        "average": 0.5,
        "frames": 1 / frames,
        "windows": 1 / (1 + (frames - 1) / window[0]),
    }[average]
    return share * first + (1 - share) * others
