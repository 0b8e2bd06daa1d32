"""Editors against closed forms, in float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ltx_diffusers.denoising.editing import FlowEdit, RFInversion, editors
from ltx_diffusers.denoising.editing.base import OfSource
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance
from ltx_diffusers.errors import InputError, RegistrationError

SHAPE = (2, 6, 3)
LEVELS = [1.0, 0.96, 0.9, 0.8, 0.65, 0.5, 0.3, 0.1, 0.0]
SOURCE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def drawing(seed: int = 2) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def result_of(editor, velocity, levels=LEVELS, draw=None) -> Tensor:
    steps = list(editor.edit(SOURCE, levels, velocity, draw or drawing()))
    assert len(steps) == editor.num_steps(levels)
    return steps[-1].tokens


def to_one_video(mean: dict[str, Tensor]):
    """The velocity of a model that knows one video under each prompt: (x - video) / sigma."""
    return lambda x, sigma, text: (x - mean[text]) / sigma


def curved(x: Tensor, sigma: float, text: str) -> Tensor:
    return torch.sin(3 * x) * (0.5 + sigma) + (0.7 if text == "target" else 0.0)


# FlowEdit


def test_flow_edit_moves_a_video_by_the_difference_of_what_the_prompts_mean() -> None:
    """With one video per prompt the path is a straight line; from sigma = 1 it arrives at source + difference."""
    mean = {
        "source": torch.tensor([1.0, 2.0, 3.0]).double(),
        "target": torch.tensor([0.0, 5.0, 3.0]).double(),
    }
    edited = result_of(FlowEdit(strength=1.0), to_one_video(mean))
    torch.testing.assert_close(edited, SOURCE + mean["target"] - mean["source"])


@pytest.mark.parametrize("settings", [{}, {"strength": 1.0}, {"averages": 3}])
def test_flow_edit_with_equal_prompts_keeps_the_video_bit_by_bit(settings: dict) -> None:
    edited = result_of(FlowEdit(**settings), lambda x, sigma, text: curved(x, sigma, "source"))
    assert torch.equal(edited, SOURCE)


def test_flow_edit_follows_the_papers_algorithm() -> None:
    """Written anew from algorithm 1, with t falling through the noise levels and n_max = 6, n_min = 2, n_avg = 2."""
    draw, edited = drawing(), SOURCE
    for i in range(8 - 6, 8 - 2):
        t, following = LEVELS[i], LEVELS[i + 1]
        differences = []
        for _ in range(2):
            z_source = (1 - t) * SOURCE + t * draw()
            z_target = edited + z_source - SOURCE
            differences.append(curved(z_target, t, "target") - curved(z_source, t, "source"))
        edited = edited + (following - t) * sum(differences) / 2
    noisy = (1 - LEVELS[6]) * SOURCE + LEVELS[6] * draw()
    z = edited + noisy - SOURCE
    for i in (6, 7):
        z = z + (LEVELS[i + 1] - LEVELS[i]) * curved(z, LEVELS[i], "target")
    torch.testing.assert_close(result_of(FlowEdit(0.9, 0.3, averages=2), curved), z)


def test_flow_edit_that_only_refines_is_video_to_video() -> None:
    noise = drawing()()
    expected = (1 - LEVELS[4]) * SOURCE + LEVELS[4] * noise
    for sigma, following in pairwise(LEVELS[4:]):
        expected = expected + (following - sigma) * curved(expected, sigma, "target")
    torch.testing.assert_close(result_of(FlowEdit(0.65, 0.65), curved), expected)


def test_averaging_flow_edit_averages_over_different_noises() -> None:
    """A velocity that is the noise itself under the target: the edit moves by the mean of the draws."""
    draw = drawing()
    noises = [draw() for _ in range(4)]
    levels = [1.0, 0.0]

    def velocity(x: Tensor, sigma: float, text: str) -> Tensor:
        return x if text == "target" else torch.zeros_like(x)

    edited = result_of(FlowEdit(1.0, averages=4), velocity, levels)
    torch.testing.assert_close(edited, SOURCE - sum(noises) / 4)


# RF-inversion


def test_plain_inversion_and_back_gives_the_video_where_velocity_is_constant() -> None:
    slope = drawing(3)()
    edited = result_of(RFInversion(gamma=0.0, eta=0.0), lambda x, sigma, text: slope)
    torch.testing.assert_close(edited, SOURCE)


def test_inversion_in_a_linear_field_is_the_product_of_its_steps() -> None:
    a = 0.8
    edited = result_of(RFInversion(gamma=0.0, eta=0.0), lambda x, sigma, text: a * x)
    lengths = -torch.tensor(LEVELS).double().diff()
    factor = (1 + a * lengths).prod() * (1 - a * lengths).prod()
    torch.testing.assert_close(edited, factor * SOURCE)


def test_inversion_and_back_comes_nearer_to_the_video_with_shorter_steps() -> None:
    def error(steps: int) -> float:
        levels = torch.linspace(1, 0, steps + 1).tolist()
        plain = RFInversion(gamma=0.0, eta=0.0)
        edited = result_of(plain, lambda x, sigma, text: curved(x, sigma, "source"), levels)
        return float((edited - SOURCE).abs().max())

    assert error(400) < error(200) / 1.7 < error(100) / 3
    assert error(400) < 0.05


def test_full_control_upwards_arrives_at_the_noise() -> None:
    steps = list(RFInversion(gamma=1.0, eta=0.0).edit(SOURCE, LEVELS, curved, drawing()))
    torch.testing.assert_close(steps[len(LEVELS) - 2].tokens, drawing()())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_full_control_downwards_arrives_at_the_video(gamma: float) -> None:
    torch.testing.assert_close(result_of(RFInversion(gamma, eta=1.0, stop=0.0), curved), SOURCE)


def test_rf_inversion_follows_the_papers_algorithms() -> None:
    """Written anew from algorithms 1 and 2 in the paper's time t = 1 - sigma."""
    gamma, eta = 0.4, 0.7
    noise, y = drawing()(), SOURCE
    rising = LEVELS[::-1]  # of the paper's forward time
    for t, following in pairwise(rising):
        unconditional = curved(y, t, "source")
        conditional = (noise - y) / (1 - t)
        y = y + (following - t) * (unconditional + gamma * (conditional - unconditional))
    x = y
    times = [1 - level for level in LEVELS]
    for index, (t, following) in enumerate(pairwise(times)):
        towards_prompt = -curved(x, 1 - t, "target")
        towards_video = (SOURCE - x) / (1 - t)
        control = eta if 2 <= index < 4 else 0.0
        x = x + (following - t) * (towards_prompt + control * (towards_video - towards_prompt))
    editor = RFInversion(gamma, eta, start=0.9, stop=0.65)
    torch.testing.assert_close(result_of(editor, curved), x)


# all of them


@pytest.mark.parametrize("name", editors.list())
def test_steps_name_the_levels_that_they_begin_at(name: str) -> None:
    editor = editors.get(name)()
    steps = list(editor.edit(SOURCE, LEVELS, curved, drawing()))
    assert len(steps) == editor.num_steps(LEVELS)
    assert editor.num_steps([1.0, 0.0]) == len(list(editor.edit(SOURCE, [1.0, 0.0], curved, drawing())))
    assert {step.sigma for step in steps} <= set(LEVELS)
    assert steps[-1].sigma == LEVELS[-2]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FlowEdit(strength=1.2), "strength of an edit"),
        (lambda: FlowEdit(strength=True), "strength of an edit"),
        (lambda: FlowEdit(strength=0.3, refinement=0.5), "at most 0.3"),
        (lambda: FlowEdit(averages=0), "averages"),
        (lambda: FlowEdit(averages=True), "averages"),
        (lambda: RFInversion(gamma=-0.1), "gamma"),
        (lambda: RFInversion(eta=float("nan")), "eta"),
        (lambda: RFInversion(start=0.5, stop=0.8), "at most 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(build, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_an_editor_without_its_parts_is_not_registered() -> None:
    with pytest.raises(RegistrationError, match="without source_guidance_share, num_steps"):
        editors.register("half")(type("Half", (), {"edit": lambda self: None}))
    assert "half" not in editors


def test_guidance_towards_the_source_reads_its_text() -> None:
    guidance = OfSource(ClassifierFreeGuidance(3.0))
    assert [run.text for run in guidance.passes] == ["negative", "source"]
    negative, positive = drawing()(), drawing(3)()
    expected = ClassifierFreeGuidance(3.0).combine([negative, positive])
    assert torch.equal(guidance.combine([negative, positive]), expected)
