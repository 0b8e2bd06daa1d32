"""Distillation of a transformer to few steps: a student learns to take in one step what its teacher takes in many.

The student samples by a fixed list of few noise levels with Euler steps, so all that it needs is the right chord
at each of them: from its tokens x at level s to where the teacher's trajectory (its probability-flow ODE, guidance
included) is at the next level s'. An Euler step x - (s - s') v lands there exactly if v is the slope of that chord,

    v = (x - teacher's trajectory from x, at s') / (s - s').

That is reflow by windows (PeRFlow, arXiv 2405.07510) and progressive distillation (arXiv 2202.00512) with all windows
learnt at once, and what phased consistency models (arXiv 2405.18407) ask for, at the one point of each phase where
the sampler ever stands. The target is a function of x, so that a squared error has nothing to average over and
needs neither a discriminator nor a second network that follows the student (as DMD2, arXiv 2405.14867, does), and the
student makes the teacher's own video from the same noise. A student as good as that can't be better than its teacher.

Where x comes from matters: noised data isn't what a guided sampler meets. DMD2 (section 4.5), Imagine Flash (arXiv
2405.05224) and FlowSteer (arXiv 2511.18834) start from trajectories as at inference; so can the trainer here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import objectives

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A model: tokens (b, L, C), their noise levels (b, L) and which samples of the pass they are (b,) give the velocity
(b, L, C)."""

# Levels closer than this are one, as in `denoising.state.moving_tokens`.
_MARGIN = 1e-6


@dataclass(frozen=True)
class TrajectoryPass:
    """One training pass of a student with its teacher.

    Attributes:
        tokens: Noisy latents (B, L, C) at the student's inference levels `path[:, 0]`.
        levels: Noise level of each token (B, L): that of its sample, or a lower one where the token is given.
        mask: 1 for each token that counts, 0 for conditions, (B, L).
        path: Noise levels (B, J + 1) that the teacher visits up to the student's next one; they fall, and the last is
            repeated where a sample has fewer.
        student: The model under training.
        teacher: The frozen model, with its guidance.
    """

    tokens: Tensor
    levels: Tensor
    mask: Tensor
    path: Tensor
    student: Velocity
    teacher: Velocity


@objectives.register("trajectory-distillation")
class TrajectoryDistillation:
    """Squared error of the chord's slope; the mean over channels and over the tokens that count."""

    inputs = TrajectoryPass

    def __call__(self, record: TrajectoryPass) -> Tensor:
        """Loss of each sample, (B,). Only the student's prediction has a gradient."""
        with torch.no_grad():
            reached = follow(record.teacher, record.tokens, record.levels, record.path)
            step = record.path[:, 0] - record.path[:, -1]
            slope = (record.tokens - reached) / step[:, None, None]
        rows = torch.arange(len(record.tokens), device=record.tokens.device)
        predicted = record.student(record.tokens, record.levels, rows)
        error = (predicted - slope).square().mean(dim=2)
        mask = record.mask.to(error.dtype)
        return (error * mask).sum(1) / mask.sum(1).clamp(min=1)


def follow(velocity: Velocity, tokens: Tensor, levels: Tensor, path: Tensor) -> Tensor:
    """Tokens after Euler steps down a path, by the rule of sampling.

    A given token waits at its own level until its sample comes down to it, and then moves along.

    Args:
        velocity: The model.
        tokens: (B, L, C).
        levels: Noise level of each token (B, L), at most that of its sample.
        path: Noise levels of each sample (B, J + 1), the first one the current; they fall or, at the end, repeat.
    """
    for now, following in zip(path.T[:-1], path.T[1:], strict=True):
        rows = (following < now).nonzero().flatten()
        if not len(rows):
            continue
        current, own = tokens[rows], levels[rows]
        level = now[rows, None]
        velocities = velocity(current, torch.minimum(own, level), rows)
        stepped = current - (now - following)[rows, None, None] * velocities
        moving = (level - _MARGIN < own)[..., None]
        tokens = tokens.index_copy(0, rows, torch.where(moving, stepped, current))
    return tokens
