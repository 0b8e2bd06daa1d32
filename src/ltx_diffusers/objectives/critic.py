"""The discriminators' side of an adversarial objective: what they are trained on, with its regularisation."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from ..functional.draws import Draws
from .adversarial import Adversarial, View, discriminator_loss


class Critic(nn.Module):
    """The discriminators of an adversarial objective as something to train; one call is one training pass.

    Args:
        objective: Whose discriminators.
    """

    def __init__(self, objective: Adversarial) -> None:
        super().__init__()
        self.discriminators = objective.discriminators
        self._objective = (objective,)
        # LeCAM's anchors: what the discriminators said of each class lately.
        self.register_buffer("mean_of_originals", torch.zeros(()))
        self.register_buffer("mean_of_others", torch.zeros(()))

    def forward(
        self,
        original: torch.Tensor,
        reconstruction: torch.Tensor,
        draws: Draws | None = None,
        step: int = 0,
    ) -> dict[str, torch.Tensor]:
        """Losses (B,) of originals and reconstructions (B, 3, F, H, W), which need no gradient.

        The key "loss" is the sum of the game's loss and the weighted penalties; the mean over patches, views and
        discriminators. "accuracy" is the share of patches that are judged rightly.
        """
        objective = self._objective[0]
        penalize = objective.r1 > 0 and torch.is_grad_enabled() and step % objective.r1_every == 0
        original = original.detach().requires_grad_(penalize)
        views = objective.views(original, reconstruction.detach(), draws)
        verdicts = [(view, logits) for view in views for logits in objective.judge(view.video)]

        def mean(values: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(values).mean(0)

        game = mean([discriminator_loss(logits, view.label, objective.loss) for view, logits in verdicts])
        figures = {
            "loss": game,
            "game": game.detach(),
            "accuracy": mean(
                [(view.label[:, None] * logits > 0).float().mean(1) for view, logits in verdicts]
            ),
        }
        if penalize:
            penalty = objective.r1_every * mean(
                [
                    _gradient_penalty(view, logits, original)
                    for view, logits in verdicts
                    if view.video.requires_grad
                ]
            )
            figures |= {"loss": figures["loss"] + objective.r1 * penalty, "r1": penalty.detach()}
        if objective.lecam > 0:
            distance = mean([self._lecam(view, logits) for view, logits in verdicts])
            figures |= {"loss": figures["loss"] + objective.lecam * distance, "lecam": distance.detach()}
            if self.training:
                self._follow(verdicts, objective.lecam_decay)
        return figures

    def _lecam(self, view: View, logits: torch.Tensor) -> torch.Tensor:
        """Squared distance of each class's logits from the other class's moving average (LeCAM, equation 6), (B,)."""
        anchor = torch.where(view.label > 0, self.mean_of_others, self.mean_of_originals)
        return (logits - anchor[:, None]).square().mean(1)

    @torch.no_grad()
    def _follow(self, verdicts: list[tuple[View, torch.Tensor]], decay: float) -> None:
        labels = torch.cat([view.label for view, _ in verdicts])
        values = torch.cat([logits.mean(1) for _, logits in verdicts])
        for buffer, of_class in ((self.mean_of_originals, labels > 0), (self.mean_of_others, labels < 0)):
            total = torch.stack([(values * of_class).sum(), of_class.sum().to(values)])
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(total)
            mean = (total[0] / total[1].clamp(min=1)).to(buffer)
            buffer.lerp_(torch.where(total[1] > 0, mean, buffer), 1 - decay)  # without waiting for a device


def _gradient_penalty(view: View, logits: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Half the squared norm of the gradient of each sample's mean logit with respect to its original, (B,)."""
    (gradient,) = torch.autograd.grad(logits.mean(1).sum(), original, create_graph=True)
    return 0.5 * gradient.float().square().flatten(1).sum(1)
