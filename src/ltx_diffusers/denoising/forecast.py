"""Velocities foretold from those of earlier steps in place of a run of the model: a step cache for flows.

Along a path the velocity changes slowly with the noise level, so that a straight line through the last two that were
computed comes near the next one. How near is known: wherever the model runs, its velocity is compared with what the
line would have said, and a line's error grows with the product of the distances to its two points. Steps for which
that promises an error within the tolerance are foretold, all passes of the guidance at once.

Unlike with caches of what happens inside the model (TeaCache, arXiv 2411.19108; FirstBlockCache) no part of it runs in
a foretold step, so that it may be compiled, offloaded or sharded. The decision needs one number of an earlier step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .state import TokenState

_POINTS = 2
"""Velocities that a line goes through."""


@dataclass(frozen=True)
class Forecasting:
    """When steps are foretold.

    Attributes:
        tolerance: Largest error that a foretold velocity may be expected to have, relative to the velocity.
        most_in_a_row: Steps foretold between two that are computed.

    Raises:
        InputError: If one of them isn't positive.
    """

    tolerance: float
    most_in_a_row: int = 2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise InputError("the tolerance must be positive", got=self.tolerance, expected="such as 0.05")
        if self.most_in_a_row < 1:
            raise InputError("most_in_a_row must be at least 1", got=self.most_in_a_row)


class Forecast:
    """The velocities of one run that were computed, and those that they foretell.

    Whatever makes velocities jump, such as new noise in each step (the samplers "stochastic" and "euler-ancestral"),
    shows as a large error, and then nothing is foretold.

    Args:
        settings: When to foretell.

    Attributes:
        computed: Velocities that were computed so far.
        foretold: Velocities that weren't.
    """

    def __init__(self, settings: Forecasting) -> None:
        self.settings = settings
        self.computed = self.foretold = 0
        self._context: Hashable = None
        self.forget()

    def forget(self) -> None:
        """Forget earlier velocities: they tell nothing about the next ones any more."""
        self._points: list[tuple[float, Tensor]] = []
        self._error: Tensor | None = None  # of a line, for distances whose product is 1
        self._in_a_row = 0

    def velocity(
        self, state: TokenState, sigma: float, compute: Callable[[], Tensor], context: Any = None
    ) -> Tensor:
        """The velocity (B, L, C) at a noise level, computed or foretold.

        Args:
            state: The tokens; errors count where they aren't fixed.
            sigma: Noise level of the video.
            compute: Runs the model.
            context: What else velocities depend on, compared by value: the guidance.
        """
        if context != self._context or (self._points and self._points[-1][0] < sigma):
            self.forget()
        self._context = context
        if self._may_foretell(sigma):
            self._in_a_row += 1
            self.foretold += 1
            return self._line(sigma)
        velocity = compute()
        self.computed += 1
        self._in_a_row = 0
        if self._points and self._points[-1][0] == sigma:  # a sampler's second look at the same level
            self._points.pop()
        elif len(self._points) == _POINTS:
            self._error = _worst(self._line(sigma), velocity, state) / self._distance(sigma)
        self._points = [*self._points, (sigma, velocity)][-_POINTS:]
        return velocity

    def _may_foretell(self, sigma: float) -> bool:
        """Whether the line is expected to be near enough. Waits for the device, for one number of an earlier step."""
        if (
            self._error is None
            or self._in_a_row >= self.settings.most_in_a_row
            or any(level == sigma for level, _ in self._points)
        ):
            return False
        return float(self._error) * self._distance(sigma) < self.settings.tolerance

    def _distance(self, sigma: float) -> float:
        """What the error of a line grows with."""
        return math.prod(abs(sigma - level) for level, _ in self._points)

    def _line(self, sigma: float) -> Tensor:
        (earlier, first), (later, second) = self._points
        return torch.lerp(first, second, (sigma - earlier) / (later - earlier))


def _worst(foretold: Tensor, velocity: Tensor, state: TokenState) -> Tensor:
    """The error of the worst sample, relative to its velocity: a number, where the tensors are."""
    free = (state.strength < 1)[..., None]
    size, error = ((free * x).flatten(1).norm(dim=1) for x in (velocity, velocity - foretold))
    return (error / size.clamp_min(1e-12)).amax()
