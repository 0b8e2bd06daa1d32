"""RF-inversion: to noise and back, both ways held by a controller (arXiv 2410.10792, algorithms 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from ...errors import InputError
from ..samplers import Draw
from .base import SOURCE, TARGET, EditStep, EditVelocity, check_share, editors


@editors.register("rf-inversion")
@dataclass(frozen=True)
class RFInversion:
    """Turns the video into structured noise, and that into a video again under the target prompt.

    On the way up the velocity under the source prompt (empty in the paper) is mixed with the straight way to drawn
    noise; on the way down that of the target prompt with the straight way to the video, in a span of the steps.
    There are twice as many steps as the schedule has.

    Attributes:
        gamma: Share of the straight way to the drawn noise, 0 to 1. 0 is plain inversion, faithful but hard to
            edit; with 1 nothing of the video is in the noise.
        eta: Share of the straight way to the video, 0 to 1, in the steps from `start` to `stop`. 1 keeps to it.
        start: Where it sets in, as a share of the steps down.
        stop: Where it ends. Later keeps more of the video.

    Raises:
        InputError: If a number is out of range.
    """

    source_guidance_share: ClassVar[float] = 0.0

    gamma: float = 0.5
    eta: float = 0.9
    start: float = 0.0
    stop: float = 0.25

    def __post_init__(self) -> None:
        for name in ("gamma", "eta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InputError(f"{name} must be in [0, 1]", got=value)
        check_share("start", self.start)
        check_share("stop", self.stop, low=self.start)

    def num_steps(self, num_levels: int) -> int:
        """As many steps up as down."""
        return 2 * num_levels

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
        num_levels = len(levels) - 1
        held = range(round(self.start * num_levels), round(self.stop * num_levels))
        for index in range(num_levels):
            sigma, following = levels[index], levels[index + 1]
            eta = self.eta if index in held else 0.0
            direction = _mixed(velocity(tokens, sigma, TARGET), (tokens - source) / sigma, eta)
            tokens = tokens + (following - sigma) * direction
            yield EditStep(sigma, tokens)


def _mixed(velocity: Tensor, straight: Tensor, share: float) -> Tensor:
    return velocity if share == 0 else (1 - share) * velocity + share * straight
