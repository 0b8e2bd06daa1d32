"""Guidance that changes with the noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ...errors import InputError
from ...geometry import VideoSize
from .base import Guidance, Pass


@dataclass(frozen=True)
class GuidanceByLevel:
    """A list of guidances, each from its own noise level on; `at` gives the one of a step.

    Attributes:
        levels: Noise levels in [0, 1], falling.
        guidances: One for each.
        rule: Which entry serves between two levels. "official": the first at or below the noise level (the last
            one below all of them), as the official pipeline; "comfy": the last at or above it (the first one
            above all of them), as ComfyUI's nodes.

    Raises:
        InputError: If the lists don't fit each other, don't fall, or the rule is unknown.
    """

    levels: Sequence[float]
    guidances: Sequence[Guidance]
    rule: str = "official"

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.guidances) or not self.levels:
            raise InputError(
                "guidance by noise level needs one guidance for each level",
                got=f"{len(self.guidances)} guidances for {len(self.levels)} levels",
            )
        falling = all(above > below for above, below in pairwise(self.levels))
        if not falling or not all(0 <= level <= 1 for level in self.levels):
            raise InputError("the noise levels must fall and lie in [0, 1]", got=list(self.levels))
        if self.rule not in ("official", "comfy"):
            raise InputError("unknown rule", got=repr(self.rule), expected="'official' or 'comfy'")

    def at(self, sigma: float) -> Guidance:
        """The guidance that serves at a noise level."""
        if self.rule == "official":
            below = [index for index, level in enumerate(self.levels) if level <= sigma]
            return self.guidances[below[0] if below else -1].at(sigma)
        above = [index for index, level in enumerate(self.levels) if level >= sigma]
        return self.guidances[above[-1] if above else 0].at(sigma)

    def all_passes(self) -> frozenset[Pass]:
        """The passes of all its guidances."""
        return frozenset().union(*(guidance.all_passes() for guidance in self.guidances))

    def for_run(self, levels: Sequence[float], size: VideoSize | None = None) -> GuidanceByLevel:
        """The list with each guidance made ready for a run of these noise levels."""
        return replace(self, guidances=[guidance.for_run(levels, size) for guidance in self.guidances])
