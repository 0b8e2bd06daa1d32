"""FlowEdit: from the video to its edit on a direct path, without inversion (arXiv 2412.08629, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import InputError
from ..samplers import Draw
from .base import SOURCE, TARGET, EditStep, EditVelocity, check_unit, editors, steps_from


@editors.register("flow-edit")
@dataclass(frozen=True)
class FlowEdit:
    """Moves the video by the difference of the velocities under both prompts.

    At each level the video is noised, and so is, by the same amount and noise, the edit as it stands; the edit then
    follows the target's velocity minus the source's. Equal prompts and guidance leave the video as it is, bit by bit.

    Attributes:
        strength: Highest noise level that is visited. Lower keeps more of the video's layout; at 1 only the prompts
            say what stays. The paper counts steps, n_max of T: on its schedules they begin at a level of 0.85 (Stable
            Diffusion 3) and 0.95 (Flux).
        refinement: From this noise level down, sample plainly under the target prompt: n_min of the paper. 0 is off.
        averages: Noises that each difference is averaged over, n_avg; each costs both runs of the model.

    Raises:
        InputError: If a number is out of range, or the refinement begins above the strength.
    """

    source_guidance_share: ClassVar[float] = 0.25

    strength: float = 0.9
    refinement: float = 0.0
    averages: int = 1

    def __post_init__(self) -> None:
        check_unit("the strength of an edit", self.strength)
        check_unit("the refinement of an edit", self.refinement)
        if self.refinement > self.strength:
            raise InputError(
                "the refinement begins at or below the strength",
                got=self.refinement,
                expected=f"at most {self.strength}",
            )
        if isinstance(self.averages, bool) or not isinstance(self.averages, int) or self.averages < 1:
            raise InputError("averages must be a whole number of at least 1", got=self.averages)

    def num_steps(self, levels: Sequence[float]) -> int:
        """Steps from the strength on."""
        return steps_from(levels, self.strength)

    def edit(
        self, source: Tensor, levels: Sequence[float], velocity: EditVelocity, draw: Draw
    ) -> Iterator[EditStep]:
        """See `Editor.edit`."""
        num_levels = len(levels) - 1
        refined = num_levels - steps_from(levels, self.refinement)
        edited = source
        for index in range(num_levels - self.num_steps(levels), num_levels):
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
