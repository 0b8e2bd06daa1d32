"""Channel statistics on latents whose covariance is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation.channels import (
    channel_statistics,
    effective_rank,
    explained_variance,
    used_channels,
)


def signs() -> torch.Tensor:
    """Four uncorrelated channels of deviation 1 and mean 0, exactly: rows of a Hadamard matrix (1, 4, 2, 2, 2)."""
    hadamard = torch.tensor([[1.0]])
    for _ in range(3):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    return hadamard[1:5].reshape(1, 4, 2, 2, 2)


def scaled(*deviations: float) -> torch.Tensor:
    return signs() * torch.tensor(deviations).view(1, -1, 1, 1, 1)


def test_statistics_are_numpys():
    latents = torch.randn(3, 5, 2, 3, 4, generator=torch.Generator().manual_seed(0)) + 7
    flat = latents.transpose(0, 1).flatten(1).numpy().astype(np.float64)
    statistics = channel_statistics(latents)
    np.testing.assert_allclose(statistics.mean, flat.mean(1))
    np.testing.assert_allclose(statistics.covariance, np.cov(flat, bias=True), atol=1e-12)
    np.testing.assert_allclose(statistics.std, flat.std(1))
    np.testing.assert_allclose(statistics.correlation, np.corrcoef(flat), atol=1e-12)
    np.testing.assert_allclose(statistics.eigenvalues().flip(0), np.linalg.eigvalsh(np.cov(flat, bias=True)))
    np.testing.assert_allclose(
        statistics.eigenvalues(normalized=True).flip(0), np.linalg.eigvalsh(np.corrcoef(flat)), atol=1e-12
    )


def test_uncorrelated_equal_channels_fill_the_space():
    eigenvalues = channel_statistics(signs()).eigenvalues()
    torch.testing.assert_close(explained_variance(eigenvalues), torch.arange(1, 5).double() / 4)
    assert effective_rank(eigenvalues) == pytest.approx(4)


def test_known_shares_give_the_known_curve_and_rank():
    statistics = channel_statistics(scaled(2**0.5, 1, 1, 0))
    eigenvalues = statistics.eigenvalues()
    torch.testing.assert_close(
        explained_variance(eigenvalues), torch.tensor([0.5, 0.75, 1, 1]).double(), rtol=1e-6, atol=1e-6
    )
    assert effective_rank(eigenvalues) == pytest.approx(2**1.5)  # entropy of 1/2, 1/4, 1/4: 1.5 bits
    # Normalised, the three that vary count alike, and the constant one not at all.
    assert effective_rank(statistics.eigenvalues(normalized=True)) == pytest.approx(3)


def test_copies_of_one_channel_are_one_component():
    one = torch.randn(1, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    statistics = channel_statistics(torch.cat([one, -3 * one, 0.1 * one + 5], 1))
    torch.testing.assert_close(
        statistics.correlation, torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]]).double()
    )
    for normalized in (False, True):
        eigenvalues = statistics.eigenvalues(normalized)
        assert effective_rank(eigenvalues) == pytest.approx(1, abs=1e-5)
        assert explained_variance(eigenvalues)[0] == pytest.approx(1)


def test_a_channel_that_the_kl_term_switched_off_isnt_used():
    """Its means are constant, its posterior has all the variance; scale doesn't matter."""
    of_means = torch.tensor([1.0, 0.5, 1e-4, 1e-8])
    posterior = torch.tensor([0.01, 0.5, 1.0, 1e-10])
    assert used_channels(of_means, posterior).tolist() == [True, True, False, True]
    assert used_channels(of_means * 1e6, posterior * 1e6).tolist() == [True, True, False, True]
    assert used_channels(torch.tensor([1e-9, 0.0]), None).tolist() == [True, False]


def test_what_cant_be_measured_is_refused():
    with pytest.raises(InputError, match="two latent pixels"):
        channel_statistics(torch.zeros(1, 4, 1, 1, 1))
    with pytest.raises(InputError, match="finite"):
        channel_statistics(torch.full((1, 4, 1, 2, 2), math.nan))
    constant = channel_statistics(torch.ones(1, 4, 1, 2, 2)).eigenvalues()
    for measure in (effective_rank, explained_variance):
        with pytest.raises(InputError, match="without variance"):
            measure(constant)
