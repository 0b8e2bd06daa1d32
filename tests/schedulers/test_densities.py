"""Timestep densities against their distribution functions in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from ltx_diffusers.errors import InputError, RegistrationError, UnknownNameError
from ltx_diffusers.functional.sigmas import sd3_mu
from ltx_diffusers.schedulers.densities import build_timestep_density, timestep_densities

NUM = 20_000
# P(KS distance > 1.95 / sqrt(n)) is about 0.001 for independent draws.
KS_LIMIT = 1.95 / math.sqrt(NUM)
PLAIN = {"clip_percentiles": None, "uniform_share": 0.0}
TOKENS = (64, 1024, 6144, 14_000)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal_cdf(x):
    return 0.5 * torch.erfc(-x / math.sqrt(2))


def logit(t):
    return torch.log(t) - torch.log1p(-t)


def plain_cdf(t, mu, std=1.0):
    """P(sigmoid(N(mu, std)) <= t)."""
    return normal_cdf((logit(t) - mu) / std)


def clipped_cdf(t, mu, std=1.0, eps=1e-3, share=0.1, low=-2.5758293035489, high=3.090232306167813):
    """Of the stretched, reflected and mixed density; `low` and `high` are the normal percentiles."""
    ends = torch.sigmoid(torch.tensor([mu + std * low, mu + std * high], dtype=torch.float64))

    def stretched_cdf(y):
        inside = ends[0] + y * (ends[1] - ends[0])
        return torch.where(inside <= 0, 0.0, plain_cdf(inside.clamp(1e-300, 1 - 1e-16), mu, std))

    # Below eps nothing; above, what lies in [2 eps - t, t] before the reflection.
    shaped = stretched_cdf(t) - stretched_cdf(2 * eps - t)
    flat = (t - eps) / (1 - eps)
    return torch.where(t < eps, 0.0, (1 - share) * shaped + share * flat)


def ks_distance(sample, cdf):
    """Greatest distance between the sample's distribution function and `cdf`, leaving out the upper edge,
    where the clipped density keeps what lies above 1."""
    ordered = sample.double().sort().values
    expected = cdf(ordered)
    n = len(ordered)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    inside = ordered < 1 - 1e-6
    above, below = (steps[1:] - expected)[inside], (expected - steps[:-1])[inside]
    return max(above.max().item(), below.max().item())


def draw(name="uniform", num_tokens=1024, stratified=False, num=NUM, seed=0, **options):
    density = build_timestep_density(name, **options)
    return density.sample(num, num_tokens=num_tokens, generator=seeded(seed), stratified=stratified)


CASES = [
    ("uniform", {}, lambda t, mu: t),
    ("logit-normal", PLAIN, plain_cdf),
    ("logit-normal", {**PLAIN, "std": 0.5}, lambda t, mu: plain_cdf(t, mu, 0.5)),
    ("logit-normal", {}, clipped_cdf),
    (
        "logit-normal",
        {"std": 1.5, "uniform_share": 0.3, "eps": 0.01},
        lambda t, mu: clipped_cdf(t, mu, 1.5, 0.01, 0.3),
    ),
    (
        "logit-normal",
        {"clip_percentiles": (0.1, 0.9), "uniform_share": 0.0},
        lambda t, mu: clipped_cdf(t, mu, share=0.0, low=-1.2815515655446, high=1.2815515655446),
    ),
]
IDS = ["uniform", "plain", "plain-narrow", "clipped", "clipped-wide", "clipped-hard"]


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("name, options, cdf", CASES, ids=IDS)
def test_draws_follow_the_closed_form(name, options, cdf, num_tokens):
    mu = sd3_mu(num_tokens)
    sample = draw(name, num_tokens, **options)
    assert ks_distance(sample, lambda t: cdf(t, mu)) < KS_LIMIT


@pytest.mark.parametrize("num_tokens", TOKENS)
@pytest.mark.parametrize("name, options, cdf", CASES, ids=IDS)
def test_stratified_draws_follow_it_far_more_closely(name, options, cdf, num_tokens):
    mu = sd3_mu(num_tokens)
    sample = draw(name, num_tokens, stratified=True, **options)
    # Each draw is at most one stratum off in each part of the mixture, and reflection folds two parts over.
    assert ks_distance(sample, lambda t: cdf(t, mu)) < 6 / NUM


def test_the_closed_form_tells_wrong_densities_apart():
    sample = draw("logit-normal", 1024, stratified=True)
    mu = sd3_mu(1024)
    for wrong in (
        lambda t: plain_cdf(t, mu),
        lambda t: clipped_cdf(t, mu, share=0.0),
        lambda t: clipped_cdf(t, sd3_mu(4096)),
        lambda t: clipped_cdf(t, mu, eps=0.05),
    ):
        assert ks_distance(sample, wrong) > 100 / NUM


@pytest.mark.parametrize("name", timestep_densities.list())
@pytest.mark.parametrize("stratified", [False, True])
def test_every_density_keeps_the_contract(name, stratified):
    density = build_timestep_density(name)
    counts = torch.tensor([16, 1024, 200_000]).repeat(500)
    sample = density.sample(1500, num_tokens=counts, generator=seeded(), stratified=stratified)
    assert sample.shape == (1500,) and sample.dtype == torch.float32
    assert (sample > 0).all() and (sample < 1).all()
    again = density.sample(1500, num_tokens=counts, generator=seeded(), stratified=stratified)
    other = density.sample(1500, num_tokens=counts, generator=seeded(1), stratified=stratified)
    assert torch.equal(sample, again) and not torch.equal(sample, other)
    assert density.sample(1, num_tokens=1024, stratified=stratified).shape == (1,)


@pytest.mark.parametrize("options", [{}, PLAIN])
def test_each_sample_has_its_own_shift(options):
    density = build_timestep_density("logit-normal", **options)
    counts = torch.tensor([64, 6144]).repeat(500)
    mixed = density.sample(1000, num_tokens=counts, generator=seeded())
    for i, num_tokens in enumerate((64, 6144)):
        alone = density.sample(1000, num_tokens=num_tokens, generator=seeded())
        assert torch.equal(mixed[i::2], alone[i::2])
    assert mixed[1::2].mean() > mixed[0::2].mean() + 0.1


@pytest.mark.parametrize("num", [1, 7, 100])
def test_strata_are_filled_once_each_in_random_order(num):
    sample = draw("uniform", num=num, stratified=True)
    strata = (sample.double() * num).long()
    assert sorted(strata.tolist()) == list(range(num))
    if num == 100:
        assert strata.tolist() != list(range(num))


def test_plain_density_is_that_of_sigmoid_of_a_shifted_normal():
    median = draw("logit-normal", 4096, stratified=True, **PLAIN).median().item()
    assert median == pytest.approx(1 / (1 + math.exp(-2.05)), abs=1e-3)


def test_the_clipped_density_survives_token_counts_that_drown_the_plain_one():
    clipped = draw("logit-normal", 500_000, stratified=True)
    assert clipped.min() < 0.01
    assert clipped.median() < 0.95
    assert draw("logit-normal", 500_000, **PLAIN).min() > 0.999


def test_the_clamp_stops_the_shift():
    options = {"clamp_shift": True}
    far = draw("logit-normal", 50_000, **options)
    assert torch.equal(far, draw("logit-normal", 4096))
    assert far.mean() < draw("logit-normal", 50_000).mean() - 0.02


def test_parts_of_the_mixture_can_be_all_or_nothing():
    flat = draw("logit-normal", uniform_share=1.0, stratified=True)
    assert ks_distance(flat, lambda t: (t - 1e-3) / (1 - 1e-3)) < 6 / NUM


@pytest.mark.parametrize(
    "options",
    [
        {"std": 0.0},
        {"clip_percentiles": (0.9, 0.1)},
        {"clip_percentiles": (0.0, 0.9)},
        {"uniform_share": 1.5},
        {"eps": 0.5},
        {"base_tokens": 4096},
        {"sdt": 1.0},
    ],
    ids=str,
)
def test_bad_options_are_refused(options):
    with pytest.raises(InputError):
        build_timestep_density("logit-normal", **options)


@pytest.mark.parametrize("name", ["uniform", "logit-normal"])
@pytest.mark.parametrize(
    "call",
    [
        {"num_samples": 0, "num_tokens": 64},
        {"num_samples": 4, "num_tokens": 0},
        {"num_samples": 4, "num_tokens": torch.ones(3)},
        {"num_samples": 4, "num_tokens": torch.ones(4, 1)},
    ],
    ids=str,
)
def test_bad_counts_are_refused(name, call):
    with pytest.raises(InputError):
        build_timestep_density(name).sample(**call)


def test_names_and_entries_are_checked():
    with pytest.raises(UnknownNameError, match="logit-normal"):
        build_timestep_density("logitnormal")
    with pytest.raises(RegistrationError):
        timestep_densities.register("broken")(object)
