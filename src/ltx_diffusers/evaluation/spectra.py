"""The space-time spectrum of latents: how much of them is smooth, by a discrete cosine transform in 3-D.

SSVAE (arXiv 2512.05394) finds that latents whose energy lies in the low frequencies are learned faster; its script
isn't published. Here: the orthonormal DCT-II of each channel over (F, H, W), channels brought to mean 0 and deviation 1
over the whole set before, squared, averaged over channels and samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional.local_correlation import standardize_channels

LOW_FREQUENCY = 0.3
"""Below this radius, as a share of the Nyquist frequency, a component counts as low."""


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II as a matrix, (size, size) float64: row k is the cosine of k / 2 cycles per `size`."""
    place = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def dct3(latents: Tensor) -> Tensor:
    """3-D DCT-II over the last three axes (..., F, H, W), in float64; it keeps the energy."""
    result = latents.double()
    for axis in (-3, -2, -1):
        result = torch.movedim(result.movedim(axis, -1) @ dct_matrix(result.shape[axis]).T, -1, axis)
    return result


def energy_spectrum(latents: Tensor) -> Tensor:
    """Share of the energy at each frequency.

    Args:
        latents: (N, C, F, H, W).

    Returns:
        (F, H, W) float64 that sums to 1; [0, 0, 0] is the constant part.
    """
    latents = standardize_channels(latents.double())
    energy = torch.zeros(latents.shape[2:], dtype=torch.float64)
    for sample in latents:
        energy += dct3(sample).square().mean(0)
    return energy / energy.sum()


@dataclass(frozen=True)
class ZigzagSpectrum:
    """A spectrum along the zigzag index.

    Attributes:
        index: Zigzag indices that occur, i + j + k of the components, (M,).
        amplitude: Root of the mean energy of each index's components, as a share of the largest, (M,).
    """

    index: list[int]
    amplitude: list[float]


def zigzag(energy: Tensor) -> ZigzagSpectrum:
    """The spectrum of SSVAE's Figure 1: amplitude against the zigzag index i + j + k.

    Args:
        energy: Of `energy_spectrum`, (F, H, W).
    """
    index = sum(_along(torch.arange(size), axis) for axis, size in enumerate(energy.shape)).expand(
        energy.shape
    )
    total = torch.zeros(int(index.max()) + 1, dtype=energy.dtype).index_add_(
        0, index.flatten(), energy.flatten()
    )
    amplitude = (total / torch.bincount(index.flatten())).sqrt()
    return ZigzagSpectrum(list(range(len(amplitude))), (amplitude / amplitude.max()).tolist())


def radii(size: tuple[int, int, int]) -> Tensor:
    """Length of each component's frequency, (F, H, W), as a share of the Nyquist frequency of one axis."""
    squares = [
        _along((torch.arange(count, dtype=torch.float64) / count).square(), axis)
        for axis, count in enumerate(size)
    ]
    return sum(squares).expand(size).sqrt()


def low_frequency_share(energy: Tensor, radius: float = LOW_FREQUENCY) -> float:
    """Share of the energy below a radius; white noise has `low_frequency_share_of_noise`.

    Args:
        energy: Of `energy_spectrum`, (F, H, W).
        radius: As a share of the Nyquist frequency.
    """
    return float(energy[radii(tuple(energy.shape)) < radius].sum())


def low_frequency_share_of_noise(size: tuple[int, int, int], radius: float = LOW_FREQUENCY) -> float:
    """What `low_frequency_share` is for white noise of a size: the share of the components below the radius."""
    return float((radii(size) < radius).double().mean())


def _along(values: Tensor, axis: int) -> Tensor:
    """Values (count,) along one of three axes."""
    shape = [1, 1, 1]
    shape[axis] = -1
    return values.view(shape)
