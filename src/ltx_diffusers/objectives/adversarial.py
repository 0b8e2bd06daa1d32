"""Adversarial objectives: the reconstruction GAN of LTX-Video (arXiv 2501.00103, section 2.1) and the ordinary one.

In the reconstruction GAN the discriminator sees the original and the reconstruction of one clip together, in random
order, and says which of them is the original; in the ordinary one it sees a single clip and says whether it is one.
Both are the same game of two classes, +1 (original first, or alone) and -1, so they share all losses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError
from ..functional.draws import Draws
from ..models.discriminators import discriminators as known_discriminators
from . import objectives
from .vae_objective import Balance, VAEObjective, VAEPass

GameLoss = Literal["hinge", "logistic"]


class View(NamedTuple):
    """What a discriminator is shown.

    Attributes:
        video: (B, C, F, H, W), C = 3 or, for pairs, 6.
        label: +1 or -1 for each sample, (B,).
    """

    video: torch.Tensor
    label: torch.Tensor


class Adversarial(VAEObjective):
    """Base of the adversarial objectives: the autoencoder's side of the game.

    The loss is the mean over patches, then over discriminators. The discriminators are kept out of this module's
    parameters; they have their own training, see `critic.Critic`.

    Args:
        discriminators: Names of registered discriminators, or {"name": ..., "options": {...}}. Default: one 3D patch
            discriminator.
        loss: "hinge" (arXiv 1705.02894) or "logistic", the non-saturating one (arXiv 1406.2661).
        r1: Weight of the gradient penalty on originals (arXiv 1801.04406); 0 switches it off.
        r1_every: Steps from one penalty to the next; it counts this many times then.
        lecam: Weight of the LeCAM regularisation (arXiv 2104.03310); 0 switches it off.
        lecam_decay: Decay of its moving averages.

    Raises:
        InputError: If a setting is impossible.
    """

    default_balance = Balance("adaptive", "decoder", 1e4)
    may_be_negative = True  # the hinge game's loss of the autoencoder
    channels: ClassVar[int]

    def __init__(
        self,
        discriminators: Sequence[str | Mapping[str, Any]] = ("patch-3d",),
        loss: GameLoss = "hinge",
        r1: float = 0.0,
        r1_every: int = 1,
        lecam: float = 0.0,
        lecam_decay: float = 0.99,
    ) -> None:
        super().__init__()
        if loss not in ("hinge", "logistic"):
            raise InputError("unknown adversarial loss", got=repr(loss), expected="hinge or logistic")
        if r1 < 0 or lecam < 0 or r1_every < 1 or not 0 <= lecam_decay < 1:
            raise InputError(
                "weights of an adversarial objective must be at least 0, r1_every at least 1, lecam_decay in [0, 1)",
                got=f"r1 {r1}, lecam {lecam}, r1_every {r1_every}, lecam_decay {lecam_decay}",
            )
        if not discriminators:
            raise InputError("an adversarial objective needs a discriminator")
        built = nn.ModuleList(_build(entry, self.channels) for entry in discriminators)
        self._discriminators = (built,)  # in a tuple, they aren't a part of this module
        self.loss = loss
        self.r1, self.r1_every = r1, r1_every
        self.lecam, self.lecam_decay = lecam, lecam_decay

    @property
    def discriminators(self) -> nn.ModuleList:
        """The networks that judge."""
        return self._discriminators[0]

    @abstractmethod
    def views(self, original: torch.Tensor, reconstruction: torch.Tensor, draws: Draws | None) -> list[View]:
        """What the discriminators are trained on."""

    def autoencoder_views(self, views: list[View]) -> list[View]:
        """Those of the views that the autoencoder is to change the verdict of."""
        return views

    def judge(self, video: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each discriminator for videos (B, C, F, H, W), each (B, patches)."""
        verdicts = [discriminator(video).flatten(1) for discriminator in self.discriminators]
        return [logits.float() if logits.dtype.itemsize < 4 else logits for logits in verdicts]

    def on_reconstruction(self, record: VAEPass) -> torch.Tensor:
        """The autoencoder's loss of each sample, (B,)."""
        views = self.views(record.video, record.reconstruction, record.draws)
        with frozen(self.discriminators):
            losses = [
                autoencoder_loss(logits, label, self.loss)
                for video, label in self.autoencoder_views(views)
                for logits in self.judge(video)
            ]
        return torch.stack(losses).mean(0)


@objectives.register("reconstruction-gan")
class ReconstructionGAN(Adversarial):
    """The paper's GAN: which of these two is the original? Original and reconstruction are joined along channels.

    Each sample's order is drawn. Without draws both orders are judged and averaged.
    """

    channels = 6

    def views(self, original: torch.Tensor, reconstruction: torch.Tensor, draws: Draws | None) -> list[View]:
        """One view in drawn order, or both orders without draws."""
        if draws is not None:
            first = draws.uniform().to(original.device) < 0.5
            return [self._view(original, reconstruction, first)]
        ones = torch.ones(original.shape[0], dtype=torch.bool, device=original.device)
        return [self._view(original, reconstruction, order) for order in (ones, ~ones)]

    @staticmethod
    def _view(original: torch.Tensor, reconstruction: torch.Tensor, original_first: torch.Tensor) -> View:
        choice = original_first[:, None, None, None, None]
        pair = torch.cat(
            [
                torch.where(choice, original, reconstruction),
                torch.where(choice, reconstruction, original),
            ],
            dim=1,
        )
        return View(pair, original_first.to(original.dtype) * 2 - 1)


@objectives.register("gan")
class OrdinaryGAN(Adversarial):
    """The ordinary GAN, the reconstruction GAN's twin for comparison: is this an original?"""

    channels = 3

    def views(self, original: torch.Tensor, reconstruction: torch.Tensor, draws: Draws | None) -> list[View]:
        """The original, then the reconstruction."""
        ones = original.new_ones(original.shape[0])
        return [View(original, ones), View(reconstruction, -ones)]

    def autoencoder_views(self, views: list[View]) -> list[View]:
        """The reconstruction alone."""
        return views[1:]


def discriminator_loss(logits: torch.Tensor, label: torch.Tensor, kind: GameLoss) -> torch.Tensor:
    """The discriminator's loss, mean over patches.

    Args:
        logits: (B, patches).
        label: +1 or -1, (B,).
        kind: "hinge": max(0, 1 - label * logit), or "logistic": log(1 + exp(-label * logit)).

    Returns:
        (B,).
    """
    right = label[:, None] * logits
    return (F.relu(1 - right) if kind == "hinge" else F.softplus(-right)).mean(1)


def autoencoder_loss(logits: torch.Tensor, label: torch.Tensor, kind: GameLoss) -> torch.Tensor:
    """The autoencoder's loss, which wants the wrong verdict: label * logit, or log(1 + exp(label * logit)); (B,)."""
    right = label[:, None] * logits
    return (right if kind == "hinge" else F.softplus(right)).mean(1)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module inside, but not into its parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _build(entry: str | Mapping[str, Any], channels: int) -> nn.Module:
    settings = {"name": entry} if isinstance(entry, str) else dict(entry)
    name, options = settings.pop("name", None), settings.pop("options", {})
    if settings or not isinstance(name, str) or not isinstance(options, Mapping):
        raise InputError(
            "a discriminator is given by its name, or by name and options",
            got=entry,
            expected='"patch-3d" or {"name": "patch-3d", "options": {"channels": 32}}',
        )
    try:
        return known_discriminators.get(name)(in_channels=channels, **options)
    except TypeError as error:
        raise InputError(f"the discriminator {name!r} can't be built", got=str(error)) from None
