"""Samplers on Gaussian data, whose velocity and whose exact paths are known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ltx_diffusers.denoising.samplers import EulerAncestral, GradientEstimation, samplers
from ltx_diffusers.errors import InputError

DEVIATION = 0.5  # of the clean data
DETERMINISTIC = {"euler": 1, "heun": 2, "res-2s": 2}


def velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """e - x0, expected for x0 ~ N(0, DEVIATION^2): both follow from the covariances with x."""
    variance = (1 - sigma) ** 2 * DEVIATION**2 + sigma**2
    return (sigma - (1 - sigma) * DEVIATION**2) / variance * x


def deviation_at(sigma: float) -> float:
    return math.sqrt((1 - sigma) ** 2 * DEVIATION**2 + sigma**2)


def levels(steps: int, last: float = 0.0) -> list[float]:
    return [1 - (1 - last) * index / steps for index in range(steps + 1)]


def run(sampler, x: torch.Tensor, sigmas: list[float], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape, dtype = x.shape, x.dtype

    def draw() -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    for sigma, following in itertools.pairwise(sigmas):
        x = sampler.step(velocity, x, sigma, following, draw)
    return x


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence(name: str) -> None:
    """The exact path scales x with the deviation; the error falls with the step to the sampler's order."""
    start = torch.ones(1, 1, 1, dtype=torch.float64)
    exact = deviation_at(0.1) / deviation_at(1.0)
    errors = [
        abs(run(samplers.get(name)(), start, levels(steps, last=0.1)).item() - exact)
        for steps in (20, 40, 80)
    ]
    orders = [math.log2(above / below) for above, below in itertools.pairwise(errors)]
    assert all(abs(order - DETERMINISTIC[name]) < 0.2 for order in orders), orders


@pytest.mark.parametrize("name", ["euler", "euler-ancestral", "heun", "res-2s", "gradient-estimation"])
def test_the_data_comes_out(name: str) -> None:
    """Standard noise becomes data of the right deviation.

    Not by "stochastic": it is for distilled models, whose clean predictions are samples, not means.
    """
    noise = torch.randn(1, 1, 100_000, dtype=torch.float64)
    result = run(samplers.get(name)(), noise, levels(100))
    assert abs(result.std().item() - DEVIATION) < 0.02
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ancestral_steps_stay_on_the_mixture(eta: float) -> None:
    sampler = EulerAncestral(eta)
    noise = torch.randn(1, 1, 200_000, dtype=torch.float64)
    result = run(sampler, noise, levels(200, last=0.4))
    assert abs(result.std().item() - deviation_at(0.4)) < 0.01


def test_ancestral_without_noise_is_euler() -> None:
    x = torch.randn(1, 2, 3)
    expected = run(samplers.get("euler")(), x, levels(5))
    torch.testing.assert_close(run(EulerAncestral(0.0), x, levels(5)), expected)
    assert not torch.isclose(run(EulerAncestral(1.0), x, levels(5)), expected).any()
    with pytest.raises(InputError, match="eta"):
        EulerAncestral(1.5)


def test_stochastic_steps_forget_the_noise() -> None:
    x, noise = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
    result = samplers.get("stochastic")().step(velocity, x, 0.8, 0.3, lambda: noise)
    torch.testing.assert_close(result, 0.7 * (x - 0.8 * velocity(x, 0.8)) + 0.3 * noise)


def test_gradient_estimation_extrapolates_the_velocity() -> None:
    x = torch.randn(1, 2, 3)
    first = velocity(x, 1.0)
    second_x = x - 0.5 * first
    second = velocity(second_x, 0.5)
    expected = second_x - 0.5 * (2 * second - first)
    torch.testing.assert_close(run(GradientEstimation(), x, [1.0, 0.5, 0.0]), expected)
    torch.testing.assert_close(
        run(GradientEstimation(1.0), x, levels(5)), run(samplers.get("euler")(), x, levels(5))
    )


@pytest.mark.parametrize("name", samplers.list())
def test_the_last_step_is_the_clean_prediction(name: str) -> None:
    x = torch.randn(1, 2, 3)
    expected = x - 0.3 * velocity(x, 0.3)
    torch.testing.assert_close(run(samplers.get(name)(), x, [0.3, 0.0]), expected)
