"""RF-inversion: to noise and back, both ways held by a controller (arXiv 2410.10792, algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from ...errors import InputError
from ..samplers import Draw
from .base import SOURCE, TARGET, EditStep, EditVelocity, check_unit, editors


@editors.register("rf-inversion")
@dataclass(frozen=True)
class RFInversion:
    """Turns the video into structured noise, and that into a video again under the target prompt.

    On the way up the velocity under the source prompt (empty in the paper) is mixed with the straight way to drawn
    noise; on the way down that of the target prompt with the straight way to the video, at the higher noise levels.
    There are twice as many steps as the schedule has.

    Attributes:
        gamma: Share of the straight way to the drawn noise, 0 to 1. 0 is plain inversion, faithful but hard to
            edit; with 1 nothing of the video is in the noise.
        eta: Share of the straight way to the video, 0 to 1, at the noise levels from `start` down to `stop`.
        start: Highest noise level where it acts; 1 - s of the paper.
        stop: It acts above this noise level; 1 - tau of the paper. Lower keeps more of the video, 0 the most.

    Raises:
        InputError: If a number is out of range.
    """

    source_guidance_share: ClassVar[float] = 0.0

    gamma: float = 0.5
    eta: float = 0.9
    start: float = 1.0
    stop: float = 0.9

    def __post_init__(self) -> None:
        for name in ("gamma", "eta", "start", "stop"):
            check_unit(name, getattr(self, name))
        if self.stop > self.start:
            raise InputError("stop lies at or below start", got=self.stop, expected=f"at most {self.start}")

    def num_steps(self, levels: Sequence[float]) -> int:
        """As many steps up as down."""
        return 2 * (len(levels) - 1)

    def edit(
        self, source: Tensor, levels: Sequence[float], velocity: EditVelocity, draw: Draw
    ) -> Iterator[EditStep]:
        """See `Editor.edit`."""
        noise, tokens = draw(), source
        rising = levels[::-1]
        for sigma, following in pairwise(rising):
            towards_noise = (noise - tokens) / (1 - sigma)
            direction = _mixed(velocity(tokens, sigma, SOURCE), towards_noise, self.gamma)
            tokens = tokens + (following - sigma) * direction
            yield EditStep(sigma, tokens)
        for sigma, following in pairwise(levels):
            held = self.stop + 1e-6 < sigma <= self.start + 1e-6
            eta = self.eta if held else 0.0
            direction = _mixed(velocity(tokens, sigma, TARGET), (tokens - source) / sigma, eta)
            tokens = tokens + (following - sigma) * direction
            yield EditStep(sigma, tokens)


def _mixed(velocity: Tensor, straight: Tensor, share: float) -> Tensor:
    return velocity if share == 0 else (1 - share) * velocity + share * straight
