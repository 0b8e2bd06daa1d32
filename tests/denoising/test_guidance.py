"""Guidance against its formulas in float64."""

from __future__ import annotations

import pytest
import torch

from ltx_diffusers.denoising.guidance import (
    ClassifierFreeGuidance,
    GuidanceByLevel,
    Pass,
    SpatioTemporalGuidance,
    guidances,
)
from ltx_diffusers.denoising.guidance.base import NEGATIVE, POSITIVE
from ltx_diffusers.errors import InputError, RegistrationError
from ltx_diffusers.models.transformers.perturbation import Perturbation


def predictions(batch: int = 3):
    # Very different scales, so that statistics shared by the batch would show.
    scale = torch.tensor([1.0, 10.0, 0.1])[:batch].view(-1, 1, 1)
    return torch.randn(batch, 6, 4) * scale, torch.randn(batch, 6, 4) * scale


def test_the_formula():
    negative, positive = predictions()
    expected = negative.double() + 3.5 * (positive.double() - negative.double())
    guided = ClassifierFreeGuidance(3.5).combine([negative, positive])
    torch.testing.assert_close(guided, expected.float())


@pytest.mark.parametrize("rescale", [0.0, 0.3, 1.0])
def test_rescale_0_is_off_and_1_restores_the_deviation(rescale):
    negative, positive = predictions()
    guided = ClassifierFreeGuidance(5.0, rescale).combine([negative, positive])
    for row in range(3):
        plain = negative[row].double() + 5 * (positive[row] - negative[row]).double()
        full = plain * positive[row].double().std() / plain.std()
        torch.testing.assert_close(guided[row], (rescale * full + (1 - rescale) * plain).float())
    if rescale == 1:
        torch.testing.assert_close(guided.flatten(1).std(dim=1), positive.flatten(1).std(dim=1))


def test_rescale_of_a_constant_prediction_is_finite():
    zero = torch.zeros(1, 6, 4)
    assert torch.equal(ClassifierFreeGuidance(5.0, 1.0).combine([zero, zero]), zero)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_at_most_1_runs_the_prompt_alone(scale):
    guidance = ClassifierFreeGuidance(scale)
    assert guidance.passes == (POSITIVE,)
    positive = torch.randn(1, 6, 4)
    assert torch.equal(guidance.combine([positive]), positive)


def test_order_of_the_passes():
    assert ClassifierFreeGuidance(2.0).passes == (NEGATIVE, POSITIVE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": -1.0}, "guidance scale"),
        ({"scale": float("nan")}, "guidance scale"),
        ({"scale": float("inf")}, "guidance scale"),
        ({"rescale": -0.1}, "rescale"),
        ({"rescale": 1.1}, "rescale"),
    ],
)
def test_numbers_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        ClassifierFreeGuidance(**settings)


def test_guidances_are_registered_by_what_they_can():
    assert guidances.get("classifier-free") is ClassifierFreeGuidance
    with pytest.raises(RegistrationError, match="combine"):
        guidances.register("nothing")(object)


# CFG*, spatio-temporal guidance, guidance by noise level


def test_star_projects_the_negative_prediction():
    negative, positive = predictions()
    guided = ClassifierFreeGuidance(4.0, star=True).combine([negative, positive])
    for row in range(3):
        n, p = negative[row].double(), positive[row].double()
        projected = n * (p * n).sum() / (n.square().sum() + 1e-8)
        torch.testing.assert_close(guided[row], (projected + 4 * (p - projected)).float())


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("star", [False, True])
def test_spatio_temporal_guidance_is_the_official_formula(scale, rescale, star):
    """Oracle: the lines of the official pipeline's `__call__`, in float64."""
    negative, positive = predictions()
    perturbed = torch.randn(3, 6, 4)
    guidance = SpatioTemporalGuidance(scale, rescale, star, stg_scale=1.5, stg_blocks=[3])
    given = [negative, positive, perturbed] if scale > 1 else [positive, perturbed]
    guided = guidance.combine(given)
    for row in range(3):
        n, p, q = (x[row].double() for x in (negative, positive, perturbed))
        expected = p
        if scale > 1:
            n = n * (p * n).sum() / (n.square().sum() + 1e-8) if star else n
            expected = n + scale * (p - n)
        expected = expected + 1.5 * (p - q)
        expected = expected * (rescale * p.std() / expected.std() + 1 - rescale)
        torch.testing.assert_close(guided[row], expected.float())


def test_the_perturbed_pass_exists_only_where_it_counts():
    perturbed = Pass("positive", Perturbation((3,), "attention-skip"))
    on = SpatioTemporalGuidance(3.0, stg_scale=1.0, stg_blocks=(3,), stg_mode="attention-skip")
    assert on.passes == (NEGATIVE, POSITIVE, perturbed)
    assert SpatioTemporalGuidance(1.0, stg_blocks=(3,)).passes == (
        POSITIVE,
        Pass("positive", Perturbation((3,))),
    )
    assert SpatioTemporalGuidance(3.0, stg_scale=0.0, stg_blocks=(3,)).passes == (NEGATIVE, POSITIVE)
    assert SpatioTemporalGuidance(3.0, stg_scale=1.0).passes == (NEGATIVE, POSITIVE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stg_scale": -1.0}, "spatio-temporal"),
        ({"stg_mode": "residual"}, "mode of perturbation"),
        ({"stg_blocks": (-1,)}, "indices of blocks"),
    ],
)
def test_spatio_temporal_settings_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        SpatioTemporalGuidance(3.0, **settings)


@pytest.mark.parametrize(
    ("rule", "sigma", "expected"),
    [
        ("official", 1.0, 0), ("official", 0.99, 1), ("official", 0.9, 1), ("official", 0.5, 2), ("official", 0.1, 2),
        ("comfy", 1.0, 0), ("comfy", 0.99, 0), ("comfy", 0.9, 1), ("comfy", 0.5, 1), ("comfy", 0.1, 2),
    ],
)  # fmt: skip
def test_the_two_rules_differ_between_levels(rule, sigma, expected):
    """0.99 lies between the levels 1 and 0.9: the official rule looks down, ComfyUI's up."""
    listed = [ClassifierFreeGuidance(float(scale)) for scale in (1, 2, 3)]
    assert GuidanceByLevel([1.0, 0.9, 0.4], listed, rule).at(sigma) is listed[expected]


def test_guidance_by_level_needs_falling_levels_and_as_many_guidances():
    one = ClassifierFreeGuidance()
    for levels, listed in (([], []), ([0.5], [one, one]), ([0.5, 0.6], [one, one]), ([1.5], [one])):
        with pytest.raises(InputError, match="level"):
            GuidanceByLevel(levels, listed)
    with pytest.raises(InputError, match="rule"):
        GuidanceByLevel([1.0], [one], "nearest")


def test_all_passes_are_those_of_every_level():
    perturbing = SpatioTemporalGuidance(1.0, stg_blocks=(2,))
    by_level = GuidanceByLevel([1.0, 0.5], [ClassifierFreeGuidance(4.0), perturbing])
    assert by_level.all_passes() == {NEGATIVE, POSITIVE, Pass("positive", Perturbation((2,)))}
