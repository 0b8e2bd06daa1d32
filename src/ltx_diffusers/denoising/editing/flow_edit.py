"""FlowEdit: from the video to its edit on a direct path, without inversion (arXiv 2412.08629, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import InputError
from ..samplers import Draw
from .base import SOURCE, TARGET, EditStep, EditVelocity, check_share, editors


@editors.register("flow-edit")
@dataclass(frozen=True)
class FlowEdit:
    """Moves the video by the difference of the velocities under both prompts.

    At each level the video is noised, and so is, by the same amount and noise, the edit as it stands; the edit then
    follows the target's velocity minus the source's. Equal prompts and guidance leave the video as it is, bit by bit.

    Attributes:
        strength: Share of the steps that is run, the last ones: n_max / T of the paper (33/50 for Stable
            Diffusion 3, 24/28 for Flux). Less keeps more of the video's structure.
        refinement: Share of the steps at the end that sample plainly under the target prompt: n_min / T.
        averages: Noises that each difference is averaged over, n_avg; each costs both runs of the model.

    Raises:
        InputError: If a number is out of range, or the refinement is longer than the whole.
    """

    source_guidance_share: ClassVar[float] = 0.25

    strength: float = 0.85
    refinement: float = 0.0
    averages: int = 1

    def __post_init__(self) -> None:
        check_share("the strength of an edit", self.strength)
        check_share("the refinement of an edit", self.refinement)
        if self.refinement > self.strength:
            raise InputError(
                "the refinement is a part of the steps that are run",
                got=self.refinement,
                expected=f"at most {self.strength} (strength)",
            )
        if not isinstance(self.averages, int) or self.averages < 1:
            raise InputError("averages must be a whole number of at least 1", got=self.averages)

    def num_steps(self, num_levels: int) -> int:
        """Steps that are run of a schedule of so many levels."""
        return round(self.strength * num_levels)

    def edit(
        self, source: Tensor, levels: Sequence[float], velocity: EditVelocity, draw: Draw
    ) -> Iterator[EditStep]:
        """See `Editor.edit`."""
        num_levels = len(levels) - 1
        first = num_levels - self.num_steps(num_levels)
        refined = num_levels - round(self.refinement * num_levels)
        edited = source
        for index in range(first, num_levels):
            sigma, following = levels[index], levels[index + 1]
            if index < refined:
                direction = self._difference(source, edited, sigma, velocity, draw)
            else:
                if index == refined:
                    edited = edited + sigma * (draw() - source)  # the edit as noisy as the video would be
                direction = velocity(edited, sigma, TARGET)
            edited = edited + (following - sigma) * direction
            yield EditStep(sigma, edited)

    def _difference(
        self, source: Tensor, edited: Tensor, sigma: float, velocity: EditVelocity, draw: Draw
    ) -> Tensor:
        """The target's velocity minus the source's (B, L, C), averaged over the noise."""
        total = torch.zeros_like(source)
        for _ in range(self.averages):
            noisy_source = (1 - sigma) * source + sigma * draw()
            noisy_edit = noisy_source + (edited - source)
            total += velocity(noisy_edit, sigma, TARGET) - velocity(noisy_source, sigma, SOURCE)
        return total / self.averages
