"""Spectra of signals whose frequencies are known; scipy as the oracle of the transform."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from ltx_diffusers.evaluation.spectra import (
    dct3,
    dct_matrix,
    energy_spectrum,
    low_frequency_share,
    low_frequency_share_of_noise,
    radii,
    zigzag,
)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def wave(size: tuple[int, int, int], frequency: tuple[int, int, int]) -> torch.Tensor:
    """The component of a frequency, of energy 1."""
    rows = [dct_matrix(count)[index] for count, index in zip(size, frequency, strict=True)]
    return torch.einsum("i,j,k->ijk", *rows)


def test_the_transform_is_scipys_and_keeps_the_energy():
    signal = noise(2, 3, 4, 5)
    expected = dctn(signal.numpy().astype(np.float64), axes=(1, 2, 3), norm="ortho")
    np.testing.assert_allclose(dct3(signal), expected, atol=1e-12)
    torch.testing.assert_close(dct3(signal).square().sum(), signal.double().square().sum())


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_matrix_is_orthonormal(size):
    torch.testing.assert_close(dct_matrix(size) @ dct_matrix(size).T, torch.eye(size).double())


@pytest.mark.parametrize("frequency", [(1, 0, 0), (0, 2, 3), (3, 3, 4)])
def test_a_wave_has_its_energy_at_its_frequency(frequency):
    size = (4, 5, 6)
    # The scale and offset of a channel don't count.
    latents = torch.stack([3 * wave(size, frequency) + 5, -wave(size, frequency)])[None]
    energy = energy_spectrum(latents)
    assert energy.shape == size
    assert energy.sum() == pytest.approx(1)
    assert energy[frequency] == pytest.approx(1, abs=1e-5)
    curve = zigzag(energy)
    assert curve.index == list(range(3 + 4 + 5 + 1))
    assert int(np.argmax(curve.amplitude)) == sum(frequency)
    assert curve.amplitude[sum(frequency)] == 1


def test_white_noise_is_flat():
    energy = energy_spectrum(noise(64, 8, 4, 6, 6))
    np.testing.assert_allclose(zigzag(energy).amplitude[1:-1], 1, atol=0.12)
    share = low_frequency_share_of_noise((4, 6, 6))
    assert low_frequency_share(energy) == pytest.approx(share, rel=0.1)


def test_amplitude_is_the_root_mean_energy_of_an_index():
    energy = torch.zeros(2, 2, 1, dtype=torch.float64)
    energy[0, 0, 0], energy[0, 1, 0] = 0.8, 0.2
    curve = zigzag(energy)
    # Index 1 has two components, of energies 0.2 and 0.
    assert curve.amplitude == pytest.approx([1, math.sqrt(0.1 / 0.8), 0])


def test_low_frequencies_lie_inside_the_radius():
    assert radii((1, 1, 10))[0, 0].tolist() == pytest.approx([index / 10 for index in range(10)])
    assert radii((2, 2, 1))[1, 1, 0] == pytest.approx(math.sqrt(0.5))
    energy = torch.full((1, 1, 10), 0.1, dtype=torch.float64)
    assert low_frequency_share(energy) == pytest.approx(0.3)
    assert low_frequency_share_of_noise((1, 1, 10)) == pytest.approx(0.3)
    assert low_frequency_share(energy, radius=0.55) == pytest.approx(0.6)


def test_smooth_latents_are_low():
    size = (4, 8, 8)
    smooth = torch.stack([wave(size, (0, 1, index)) for index in (0, 1, 2)])[None]
    assert low_frequency_share(energy_spectrum(smooth)) == pytest.approx(1)
    rough = torch.stack([wave(size, (3, 7, index)) for index in (0, 1, 2)])[None]
    assert low_frequency_share(energy_spectrum(rough)) == pytest.approx(0, abs=1e-6)
