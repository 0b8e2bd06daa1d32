"""The discriminators of a run's adversarial objectives as one module to train."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError
from ..functional.draws import Draws
from ..objectives.adversarial import Adversarial
from ..objectives.composition import Composition, named_modules
from ..objectives.critic import Critic


class Adversaries(nn.Module):
    """All critics of a run; one call is one training pass of the discriminators.

    Args:
        composition: The run's objectives, adversarial ones among them or not.
        start_step: First step of all of them; None lets them begin with the first of the objectives.

    Attributes:
        critics: By the objective's name.
        first_step: First step at which they are trained.

    Raises:
        InputError: If the discriminators would begin after an objective that needs them.
    """

    def __init__(self, composition: Composition, start_step: int | None = None) -> None:
        super().__init__()
        starts = {
            name: composition.settings[name].start_step
            for name, term in composition.terms.items()
            if isinstance(term, Adversarial)
        }
        # One start for all: every step then has a gradient for every parameter, as processes must agree on.
        earliest = min(starts.values(), default=0)
        self.first_step = earliest if start_step is None else start_step
        if self.first_step > earliest and starts:
            raise InputError(
                "the discriminators can't begin after an adversarial objective",
                got=f"discriminator.start_step={start_step}, an objective's start_step={earliest}",
            )
        self.critics = {name: Critic(composition.terms[name]) for name in starts}
        self.parts = named_modules(self.critics)

    def forward(
        self,
        original: torch.Tensor,
        reconstruction: torch.Tensor,
        step: int,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """Losses and figures (B,) of originals and reconstructions (B, 3, F, H, W); "loss" is the critics' sum.

        Random numbers come from `draws`, or else from `generator`.
        """
        if draws is None and generator is not None:
            draws = Draws.split(generator, len(original))
        figures: dict[str, torch.Tensor] = {}
        losses = []
        for name, critic in self.critics.items():
            found = critic(original, reconstruction, draws, step)
            losses.append(found.pop("loss"))
            figures |= {f"{name}/{key}": value for key, value in found.items()}
        return figures | {"loss": torch.stack(losses).sum(0)}
