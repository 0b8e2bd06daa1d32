"""Guidance: how predictions with and without the prompt become one.

A guidance names the passes that it needs, in the order in which they stand in the batch, and combines their
predictions. The order of the passes is [negative, positive, ...], as in the official pipeline and Diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError, RegistrationError
from ..registry import Registry


class Guidance(Protocol):
    """Combines the predictions of several passes through the model."""

    @property
    def passes(self) -> tuple[str, ...]:
        """Texts that the model is run with: "negative" and "positive", in batch order."""
        ...

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """One velocity (B, L, C) from those of `passes`, each (B, L, C) float32."""
        ...


def _check_guidance(name: str, entry: type[Guidance]) -> None:
    if not callable(getattr(entry, "combine", None)) or not hasattr(entry, "passes"):
        raise RegistrationError(
            f"the guidance {name!r} must be a class with `passes` and combine(predictions)",
            got=getattr(entry, "__name__", entry),
        )


guidances: Registry[type[Guidance]] = Registry("guidance", _check_guidance)


@guidances.register("classifier-free")
@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """Classifier-free guidance, negative + scale (positive - negative) (arXiv 2207.12598), with rescale.

    Rescale (arXiv 2305.08891, equations 15 and 16) brings the standard deviation of the result back to
    that of the positive prediction: 0 is off, 1 is full. The official pipeline's files use 1 for "off";
    convert them. The deviation is taken per sample over all tokens and channels, so that a batch gives what
    single calls give.

    Attributes:
        scale: w >= 0. At 1 or below no negative pass is run, as in Diffusers.
        rescale: Share of the rescaled prediction, in [0, 1].

    Raises:
        InputError: If a number is out of range.
    """

    scale: float = 3.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise InputError("the guidance scale must be a number of at least 0", got=self.scale)
        if not 0 <= self.rescale <= 1:
            raise InputError("the guidance rescale must be in [0, 1]", got=self.rescale)

    @property
    def passes(self) -> tuple[str, ...]:
        """("negative", "positive"), or ("positive",) where guidance is off."""
        return ("negative", "positive") if self.scale > 1 else ("positive",)

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """The guided velocity (B, L, C)."""
        if len(predictions) == 1:
            return predictions[0]
        negative, positive = predictions
        guided = negative + self.scale * (positive - negative)
        if self.rescale == 0:
            return guided
        ratio = _std(positive) / _std(guided).clamp_min(torch.finfo(guided.dtype).tiny)
        return guided * (self.rescale * ratio + (1 - self.rescale))


def _std(prediction: Tensor) -> Tensor:
    """Standard deviation of each sample (B, 1, ...)."""
    return prediction.std(dim=tuple(range(1, prediction.ndim)), keepdim=True)
