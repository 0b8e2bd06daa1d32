"""Classifier-free guidance against its formulas in float64."""

from __future__ import annotations

import pytest
import torch

from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance, guidances
from ltx_diffusers.errors import InputError, RegistrationError


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
    assert guidance.passes == ("positive",)
    positive = torch.randn(1, 6, 4)
    assert torch.equal(guidance.combine([positive]), positive)


def test_order_of_the_passes():
    assert ClassifierFreeGuidance(2.0).passes == ("negative", "positive")


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
