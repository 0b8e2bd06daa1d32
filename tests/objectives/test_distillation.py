"""Distillation against closed forms: data of one Gaussian, whose trajectories are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltx_diffusers.objectives.distillation import TrajectoryDistillation, TrajectoryPass, follow

MEAN, SPREAD = 0.7, 0.4
"""Of the data, N(MEAN, SPREAD^2) in every channel."""


def deviation(level: Tensor) -> Tensor:
    """Standard deviation of noised data (1 - level) x0 + level e."""
    return ((1 - level) ** 2 * SPREAD**2 + level**2).sqrt()


def gaussian_velocity(tokens: Tensor, levels: Tensor, _rows: Tensor) -> Tensor:
    """E[e - x0 | x], the exact velocity."""
    levels = levels[..., None]
    z = (tokens - (1 - levels) * MEAN) / deviation(levels)
    slope = (levels - (1 - levels) * SPREAD**2) / deviation(levels)
    return -MEAN + slope * z


def on_trajectory(z: Tensor, level: Tensor) -> Tensor:
    """Where the trajectory that has quantile z (B, L, C) is at a level (B,)."""
    level = level[:, None, None]
    return (1 - level) * MEAN + deviation(level) * z


def fine_path(begin: Tensor, end: Tensor, steps: int) -> Tensor:
    share = torch.linspace(0, 1, steps + 1, dtype=begin.dtype)
    return begin[:, None] + (end - begin)[:, None] * share


def gaussian_pass(steps: int = 2000) -> tuple[TrajectoryPass, Tensor]:
    """A pass of three samples, and the slopes of the exact chords."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64)
    begin = torch.tensor([1.0, 0.75, 0.25], dtype=torch.float64)
    end = torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64)
    tokens = on_trajectory(z, begin)
    exact = (tokens - on_trajectory(z, end)) / (begin - end)[:, None, None]
    record = TrajectoryPass(
        tokens=tokens,
        levels=begin[:, None].expand(3, 5),
        mask=torch.ones(3, 5, dtype=torch.bool),
        path=fine_path(begin, end, steps),
        student=lambda tokens, levels, rows: exact[rows],
        teacher=gaussian_velocity,
    )
    return record, exact


def test_the_exact_chord_is_what_is_asked_for() -> None:
    record, exact = gaussian_pass()
    assert (TrajectoryDistillation()(record) < 1e-6).all()
    # Any other prediction costs its mean squared distance from the chord.
    off = replace(record, student=lambda tokens, levels, rows: exact[rows] + 0.5)
    torch.testing.assert_close(
        TrajectoryDistillation()(off), torch.full((3,), 0.25, dtype=torch.float64), atol=1e-3, rtol=0
    )
    # The velocity at the beginning isn't the chord: an undistilled model has something to learn.
    plain = replace(record, student=gaussian_velocity)
    assert (TrajectoryDistillation()(plain) > 1e-3).all()


def test_a_student_of_exact_chords_lands_on_the_teachers_trajectory() -> None:
    record, _ = gaussian_pass()
    ends = record.path[:, [0, -1]]
    landed = follow(record.student, record.tokens, record.levels, ends)
    reached = follow(gaussian_velocity, record.tokens, record.levels, record.path)
    torch.testing.assert_close(landed, reached, atol=1e-3, rtol=0)
    assert not torch.allclose(
        follow(gaussian_velocity, record.tokens, record.levels, ends), reached, atol=1e-2
    )


@pytest.mark.parametrize("steps", [10, 100])
def test_the_teachers_error_falls_with_its_steps(steps: int) -> None:
    record, _ = gaussian_pass(steps)
    few = TrajectoryDistillation()(record)
    many = TrajectoryDistillation()(gaussian_pass(4 * steps)[0])
    assert (many < few / 12).all()  # a first-order solver: a quarter of the error, squared


def test_only_the_student_gets_a_gradient() -> None:
    record, _ = gaussian_pass(4)
    student, teacher = (torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    record = replace(
        record,
        student=lambda tokens, levels, rows: student * tokens,
        teacher=lambda tokens, levels, rows: teacher * gaussian_velocity(tokens, levels, rows),
    )
    TrajectoryDistillation()(record).sum().backward()
    assert student.grad.abs() > 0
    assert teacher.grad is None


def test_given_tokens_count_for_nothing() -> None:
    record, exact = gaussian_pass(50)
    mask = record.mask.clone()
    mask[:, 1] = False
    wild = exact.clone()
    wild[:, 1] += 1e3
    masked = replace(record, mask=mask, student=lambda tokens, levels, rows: wild[rows])
    kept = replace(record, mask=mask)
    torch.testing.assert_close(TrajectoryDistillation()(masked), TrajectoryDistillation()(kept))
    nothing = replace(record, mask=torch.zeros_like(mask))
    assert torch.equal(TrajectoryDistillation()(nothing), torch.zeros(3, dtype=torch.float64))


def test_given_tokens_wait_until_their_sample_comes_down_to_them() -> None:
    """As in sampling: one at 0 never moves, one at 0.5 moves with the step from 0.5 on, at its sample's level."""
    seen = []

    def velocity(tokens: Tensor, levels: Tensor, rows: Tensor) -> Tensor:
        seen.append(levels.clone())
        return torch.ones_like(tokens)

    tokens = torch.zeros(1, 3, 1)
    levels = torch.tensor([[1.0, 0.5, 0.0]])
    result = follow(velocity, tokens, levels, torch.tensor([[1.0, 0.75, 0.5, 0.25]]))
    assert result.flatten().tolist() == [-0.75, -0.25, 0.0]
    assert [levels.tolist() for levels in seen] == [[[1.0, 0.5, 0.0]], [[0.75, 0.5, 0.0]], [[0.5, 0.5, 0.0]]]


def test_samples_whose_path_has_ended_are_left_alone() -> None:
    seen = []

    def velocity(tokens: Tensor, levels: Tensor, rows: Tensor) -> Tensor:
        seen.append(rows.tolist())
        return torch.ones_like(tokens)

    path = torch.tensor([[1.0, 0.5, 0.5], [1.0, 0.8, 0.4], [0.3, 0.3, 0.3]])
    levels = path[:, :1].expand(3, 2)
    result = follow(velocity, torch.zeros(3, 2, 1), levels, path)
    assert seen == [[0, 1], [1]]
    torch.testing.assert_close(result[:, 0, 0], torch.tensor([-0.5, -0.6, 0.0]))
