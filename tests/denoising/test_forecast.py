"""Velocities foretold from earlier ones: when, how far off, and when they must not be."""

from __future__ import annotations

import pytest
import torch

from ltx_diffusers.denoising.forecast import Forecast, Forecasting
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance
from ltx_diffusers.denoising.loop import denoise
from ltx_diffusers.denoising.samplers import samplers
from ltx_diffusers.denoising.state import at_noise_level, from_noise
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.schedulers.flow_match import LTXFlowMatchScheduler

LEVELS = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def a_state(rows: int = 1):
    noise = torch.randn(rows, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    return at_noise_level(from_noise(noise, Placement(25.0, causal=True)), 1.0)


class Model:
    """A velocity that depends on the level alone, and counts how often it is asked for."""

    def __init__(self, shape, function) -> None:
        self.direction = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.function = function
        self.levels: list[float] = []

    def __call__(self, sigma: float) -> torch.Tensor:
        self.levels.append(sigma)
        return self.true(sigma)

    def true(self, sigma: float) -> torch.Tensor:
        return self.function(sigma) * self.direction


def run(forecast: Forecast, model: Model, state, levels=LEVELS, context=None) -> list[torch.Tensor]:
    return [forecast.velocity(state, sigma, lambda s=sigma: model(s), context) for sigma in levels]


def test_a_line_is_foretold_exactly():
    state = a_state()
    model = Model(state.tokens.shape, lambda sigma: 2 + 3 * sigma)
    forecast = Forecast(Forecasting(tolerance=1e-6, most_in_a_row=2))
    for sigma, velocity in zip(LEVELS, run(forecast, model, state), strict=True):
        torch.testing.assert_close(velocity, model.true(sigma))
    assert model.levels == [1.0, 0.9, 0.8, 0.5, 0.2]  # two points and one to check them by, then two of three
    assert (forecast.computed, forecast.foretold) == (5, 5)


@pytest.mark.parametrize(("factor", "foretold"), [(1.01, True), (0.99, False)])
def test_the_expected_error_of_a_parabola_is_its_error(factor: float, foretold: bool):
    """Three points of it are measured, so that the error at the next level is known beforehand."""
    state = a_state()
    model = Model(state.tokens.shape, lambda sigma: 1 + sigma**2)
    line = model.true(0.8) + (model.true(0.8) - model.true(0.9))
    # Relative to the velocity where it was measured.
    error = float((line - model.true(0.7)).norm() / model.true(0.8).norm())
    forecast = Forecast(Forecasting(tolerance=factor * error))
    run(forecast, model, state, LEVELS[:4])
    assert (0.7 not in model.levels) == foretold


def test_noise_is_never_foretold():
    state = a_state()
    source = torch.Generator().manual_seed(2)
    model = Model(state.tokens.shape, lambda sigma: torch.randn(state.tokens.shape, generator=source))
    forecast = Forecast(Forecasting(tolerance=0.2))
    run(forecast, model, state)
    assert forecast.foretold == 0


def test_another_guidance_and_another_run_begin_anew():
    state = a_state()
    model = Model(state.tokens.shape, lambda sigma: 1 + sigma)
    forecast = Forecast(Forecasting(tolerance=0.01))
    run(forecast, model, state, LEVELS[:4], ClassifierFreeGuidance(3.0))
    assert model.levels == LEVELS[:3]
    model.levels.clear()
    run(forecast, model, state, LEVELS[4:6], ClassifierFreeGuidance(2.0))
    assert model.levels == LEVELS[4:6]
    model.levels.clear()
    run(forecast, model, state, LEVELS[:3], ClassifierFreeGuidance(2.0))  # from above again
    assert model.levels == LEVELS[:3]


def test_the_worst_sample_counts_and_fixed_tokens_do_not():
    one = a_state(rows=2)
    source = torch.Generator().manual_seed(3)

    def noisy_in_part(part):
        def function(sigma: float) -> torch.Tensor:
            factors = torch.full(one.tokens.shape, 1 + sigma, dtype=torch.float64)
            factors[part] = torch.randn(factors[part].shape, generator=source, dtype=torch.float64)
            return factors

        return function

    settings = Forecasting(tolerance=0.05)
    second_row, first_tokens = (1, slice(None)), (slice(None), slice(0, 3))
    forecast = Forecast(settings)
    run(forecast, Model(one.tokens.shape, noisy_in_part(second_row)), one)
    assert forecast.foretold == 0
    one.strength[first_tokens] = 1.0
    forecast = Forecast(settings)
    run(forecast, Model(one.tokens.shape, noisy_in_part(first_tokens)), one)
    assert forecast.foretold > 0


class Foretelling:
    """A velocity as the loop calls it, with a forecast."""

    def __init__(self, model: Model, settings: Forecasting) -> None:
        self.model, self.forecast = model, Forecast(settings)

    def __call__(self, state, timestep):
        raise AssertionError("the loop knows the level")

    def at_level(self, state, sigma, scale, conditioned):
        return self.forecast.velocity(state, sigma, lambda: self.model(sigma).float())


@pytest.mark.parametrize("name", ["euler", "heun", "res-2s", "gradient-estimation"])
def test_samplers_that_look_twice_at_a_level_stay_right(name: str):
    """Of a velocity that is a line in the level, whatever the sampler asks for comes out as computed."""
    state, scheduler = a_state(), LTXFlowMatchScheduler(schedule="uniform")
    scheduler.set_timesteps(8)
    model = Model(state.tokens.shape, lambda sigma: 1 + sigma)
    foretelling = Foretelling(model, Forecasting(tolerance=1e-4))
    sampler = samplers.get(name)()
    result = denoise(state, foretelling, scheduler, sampler=sampler)
    calls = len(model.levels)
    expected = denoise(
        state,
        lambda state, timestep: model.true(float(timestep[0]) / 1000).float(),
        scheduler,
        sampler=sampler,
    )
    torch.testing.assert_close(result.tokens, expected.tokens, rtol=1e-4, atol=1e-4)
    assert foretelling.forecast.foretold > 0
    assert foretelling.forecast.computed == calls


@pytest.mark.parametrize("settings", [(0.0, 1), (-1.0, 1), (float("nan"), 1), (0.1, 0)])
def test_what_is_not_positive_is_refused(settings):
    with pytest.raises(InputError):
        Forecasting(*settings)
