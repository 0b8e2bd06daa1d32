"""Confidence intervals against scipy and published values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ltx_diffusers.evaluation.statistics import mean_interval, wilson_interval


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (1, 3), (170, 200), (194, 200)])
def test_wilson_is_scipys(right, count):
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_no_trials_tell_nothing():
    assert wilson_interval(0, 0) == (0, 1)


def test_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(30, 2, 50)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert mean_interval(values.tolist()) == pytest.approx(expected, rel=1e-6)
    assert mean_interval([3.0]) == (3.0, 3.0)
