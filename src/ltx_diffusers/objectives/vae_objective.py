"""What an objective of a video VAE is: hooks at fixed places of a training pass, called in this order.

1. `setup(vae)`, once, before any step: extra parameters that are trained along, frozen teachers.
2. `on_posterior(posterior)`: a loss of the encoder's output alone.
3. `on_latents(latents, draws)`: what the decoder gets instead of the drawn latents, in training only.
4. `on_reconstruction(record)`: a loss of the decoder's output.
5. `balance(loss, reference, layer)`: a factor of the loss, besides its weight in the config.
6. `diagnostics()`: figures to log.

An objective overrides what it needs. A plain callable that takes a `VAEPass` is one too: it has hook 4 only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from ..errors import InputError
from ..functional.draws import Draws
from ..geometry import VideoSize
from .balance import gradient_ratio


@dataclass(frozen=True)
class PosteriorPass:
    """What the encoder made of a batch.

    Attributes:
        video: Original, (B, 3, F, H, W) in [-1, 1].
        mean: Mean of the posterior, (B, C, F', H', W').
        logvar: Its log-variance, same shape (shared by all channels in LTX-Video's VAE).
        captions: The clips' captions, if the data has them.
    """

    video: torch.Tensor
    mean: torch.Tensor
    logvar: torch.Tensor
    captions: tuple[str, ...] | None = None


@dataclass(frozen=True)
class VAEPass:
    """One training pass through a VAE.

    Attributes:
        video: Original, (B, 3, F, H, W) in [-1, 1].
        reconstruction: What the decoder made of it, same shape.
        mean: Mean of the posterior, (B, C, F', H', W').
        logvar: Its log-variance, same shape (shared by all channels in LTX-Video's VAE).
        emphasis: Weight of each pixel, (B, 1, F, H, W) with mean 1 per sample, or None for equal weights.
        latents: What the decoder was given, same shape as the mean.
        noise_level: Level of the noise in it, (B,) in [0, 1], or None if the decoder takes none.
        captions: The clips' captions, if the data has them.
        draws: Sources of an objective's own random numbers; None asks for what needs none.
    """

    video: torch.Tensor
    reconstruction: torch.Tensor
    mean: torch.Tensor
    logvar: torch.Tensor
    emphasis: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    noise_level: torch.Tensor | None = None
    captions: tuple[str, ...] | None = None
    draws: Draws | None = None

    @property
    def posterior(self) -> PosteriorPass:
        """The encoder's part of the pass."""
        return PosteriorPass(self.video, self.mean, self.logvar, self.captions)


@dataclass(frozen=True)
class Balance:
    """How the factor of a loss is found, besides its weight.

    Attributes:
        kind: "constant" is 1. "adaptive" is |gradient of the reconstruction loss| / (|gradient of this loss| + 1e-4),
            detached, both with respect to the weight of one layer (VQGAN, arXiv 2012.09841, section 3.1).
        layer: The "decoder"'s or the "encoder"'s last convolution.
        cap: Largest factor.
    """

    kind: Literal["constant", "adaptive"] = "constant"
    layer: Literal["encoder", "decoder"] = "decoder"
    cap: float = 1e4


CONSTANT = Balance()
"""No factor besides the weight."""


class VAEObjective(nn.Module):
    """Base of the objectives with hooks; called with a `VAEPass` it gives the sum of its losses, (B,).

    Attributes:
        inputs: The record that it is called with.
        is_reconstruction: Whether its loss belongs to the reconstruction loss: the reference of adaptive balances, and
            what a learned scale divides.
        gives_loss: False for an objective that only changes latents.
        couples_batch: True if the losses of a batch depend on each other.
        may_be_negative: True if its loss has no lower bound of 0.
        default_balance: The balance that it was published with.
    """

    inputs: ClassVar[type] = VAEPass
    is_reconstruction: ClassVar[bool] = False
    gives_loss: ClassVar[bool] = True
    couples_batch: bool = False
    may_be_negative: ClassVar[bool] = False
    default_balance: ClassVar[Balance] = CONSTANT

    def setup(self, vae: nn.Module) -> None:
        """Get ready for a VAE: create parameters that are trained along, read what is needed of its config."""

    def check_latents(self, size: VideoSize) -> None:
        """Refuse clips whose latents have an unfit size, before training. Raises: `InputError`."""

    def on_posterior(self, posterior: PosteriorPass) -> torch.Tensor | None:
        """Loss (B,) of the encoder's output, or None."""
        return None

    def on_latents(self, latents: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        """What the decoder gets instead of the latents (B, C, F', H', W') drawn from the posterior.

        Draws for single samples come from `draws.samples`, those for the whole batch from `draws.shared`: then the
        step is the same on any number of processes.
        """
        return latents

    def on_reconstruction(self, record: VAEPass) -> torch.Tensor | None:
        """Loss (B,) of the decoder's output, or None."""
        return None

    def balance(
        self, loss: torch.Tensor, reference: torch.Tensor, layer: torch.Tensor, cap: float
    ) -> torch.Tensor:
        """Factor of an adaptively balanced loss.

        Args:
            loss: This objective's losses, (B,).
            reference: The reconstruction losses, (B,).
            layer: Weight of the layer whose gradients are compared.
            cap: Largest factor.

        Returns:
            The factor, (), detached.
        """
        return gradient_ratio(reference.mean(), loss.mean(), layer, cap)

    def diagnostics(self) -> dict[str, torch.Tensor]:
        """Figures of the last pass to log, scalars or (B,)."""
        return {}

    def forward(self, record: VAEPass) -> torch.Tensor:
        """Losses of a whole pass, (B,).

        Raises:
            InputError: If the objective gives no loss.
        """
        losses = [self.on_posterior(record.posterior), self.on_reconstruction(record)]
        given = [loss for loss in losses if loss is not None]
        if not given:
            raise InputError(
                f"{type(self).__name__} gives no loss: it only changes latents", fix="call on_latents"
            )
        return given[0] if len(given) == 1 else given[0] + given[1]


class PlainObjective(VAEObjective):
    """An objective made of a callable from `VAEPass` to losses (B,)."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def on_reconstruction(self, record: VAEPass) -> torch.Tensor:
        """What the callable gives."""
        return self.function(record)
