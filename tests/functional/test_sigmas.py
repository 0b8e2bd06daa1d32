"""Schedules against their definitions, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_diffusers.errors import InputError, RegistrationError, UnknownNameError
from ltx_diffusers.functional import sigmas as maths

STEPS = st.integers(1, 400)
BUILT_IN = ("uniform", "linear-quadratic", "constant-shift")


def assert_schedule(levels: torch.Tensor, num_steps: int) -> None:
    assert levels.shape == (num_steps,)
    assert levels.dtype == torch.float64
    assert levels[0] == 1
    assert levels[-1] > 0
    assert (levels.diff() < 0).all()


@given(STEPS)
def test_every_registered_schedule_falls_from_one(num_steps):
    for name in BUILT_IN:
        assert_schedule(maths.schedules.get(name)(num_steps), num_steps)


@given(STEPS, st.floats(0.05, 20))
def test_a_constant_shift_keeps_a_schedule_a_schedule(num_steps, shift):
    assert_schedule(maths.constant_shift(num_steps, shift), num_steps)


@given(STEPS, st.integers(16, 60_000), st.floats(0.01, 0.5))
def test_shift_and_stretch_keep_a_schedule_a_schedule(num_steps, num_tokens, terminal):
    shifted = maths.shift_odds(maths.uniform(num_steps), math.exp(maths.sd3_mu(num_tokens)))
    stretched = maths.stretch_to_terminal(shifted, terminal)
    assert_schedule(stretched, num_steps)
    if num_steps > 1:
        assert stretched[-1].item() == pytest.approx(terminal, abs=1e-12)


@pytest.mark.parametrize("name", BUILT_IN)
def test_one_step_starts_at_pure_noise(name):
    assert maths.schedules.get(name)(1).tolist() == [1.0]


def test_one_step_is_not_moved_by_the_stretch():
    assert maths.stretch_to_terminal(torch.ones(1, dtype=torch.float64), 0.1).tolist() == [1.0]


def test_linear_quadratic_is_linear_then_smoothly_quadratic():
    num_steps, linear_steps, threshold = 20, 6, 0.04
    levels = maths.linear_quadratic(num_steps, threshold, linear_steps)
    removed = 1 - torch.cat([levels, levels.new_zeros(1)])
    line = torch.arange(linear_steps + 1, dtype=torch.float64) * (threshold / linear_steps)
    torch.testing.assert_close(removed[: linear_steps + 1], line, rtol=0, atol=1e-14)
    assert removed[-1] == 1
    second = removed[linear_steps:].diff().diff()
    torch.testing.assert_close(second, second[:1].expand_as(second), rtol=0, atol=1e-13)
    # The parabola leaves the line with the line's slope: its first difference is that plus half the second.
    first_difference = removed[linear_steps + 1] - removed[linear_steps]
    assert first_difference.item() == pytest.approx(threshold / linear_steps + second[0].item() / 2)


def test_linear_quadratic_gives_the_distilled_list():
    expected = [1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875]
    torch.testing.assert_close(
        maths.linear_quadratic(8), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_sd3_line_passes_its_two_points_and_goes_on():
    assert maths.sd3_mu(1024) == pytest.approx(0.95)
    assert maths.sd3_mu(4096) == pytest.approx(2.05)
    assert maths.sd3_mu(6144) == pytest.approx(2.7833, abs=1e-4)
    assert maths.sd3_mu(6144, clamp=True) == 2.05
    assert maths.sd3_mu(64, clamp=True) == 0.95
    mus = maths.sd3_mu(torch.tensor([64.0, 4096.0, 6144.0]), clamp=True)
    torch.testing.assert_close(mus, torch.tensor([0.95, 2.05, 2.05]))


def test_shift_odds_multiplies_the_odds():
    levels = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    shifted = maths.shift_odds(levels, 3.0)
    torch.testing.assert_close(shifted / (1 - shifted), 3 * levels / (1 - levels))
    assert maths.shift_odds(torch.tensor([1.0, 0.0]), 3.0).tolist() == [1.0, 0.0]


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_next_sigmas_is_the_largest_level_below(currents):
    schedule = torch.tensor([1.0, 0.8, 0.5, 0.1, 0.0])
    current = torch.tensor(currents)
    below = [max([s for s in schedule.tolist() if s < c - 1e-6], default=0.0) for c in current.tolist()]
    torch.testing.assert_close(maths.next_sigmas(schedule, current), torch.tensor(below))


def test_next_sigmas_takes_any_shape_and_the_margin():
    schedule = torch.tensor([1.0, 0.5, 0.0])
    current = torch.tensor([[[1.0, 0.5 + 5e-7, 0.5 + 5e-6, 0.0]]])
    assert maths.next_sigmas(schedule, current).tolist() == [[[0.5, 0.0, 0.5, 0.0]]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: maths.uniform(0),
        lambda: maths.uniform(-3),
        lambda: maths.uniform(2.5),
        lambda: maths.uniform(True),
        lambda: maths.linear_quadratic(8, threshold=0),
        lambda: maths.linear_quadratic(8, threshold=1.5),
        lambda: maths.linear_quadratic(8, linear_steps=8),
        lambda: maths.linear_quadratic(8, linear_steps=0),
        lambda: maths.constant_shift(8, 0),
        lambda: maths.shift_odds(torch.ones(1), float("nan")),
        lambda: maths.stretch_to_terminal(torch.ones(1), 0),
        lambda: maths.stretch_to_terminal(torch.ones(1), 1),
        lambda: maths.check_schedule(torch.tensor([])),
        lambda: maths.check_schedule(torch.tensor(0.5)),
        lambda: maths.check_schedule(torch.tensor([0.5, 0.9])),
        lambda: maths.check_schedule(torch.tensor([0.9, 0.9])),
        lambda: maths.check_schedule(torch.tensor([1.1, 0.9])),
        lambda: maths.check_schedule(torch.tensor([0.5, 0.0])),
        lambda: maths.check_schedule(torch.tensor([0.5, float("nan")])),
    ],
)
def test_bad_numbers_are_refused(call):
    with pytest.raises(InputError):
        call()


def test_unknown_schedules_get_near_names():
    with pytest.raises(UnknownNameError, match="linear-quadratic"):
        maths.schedules.get("linear-quadratc")


def test_a_schedule_must_be_callable():
    with pytest.raises(RegistrationError):
        maths.schedules.register("broken")([1.0, 0.5])
