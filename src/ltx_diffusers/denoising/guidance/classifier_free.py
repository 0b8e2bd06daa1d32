"""Classifier-free guidance, its rescale, and the projection of CFG*."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from .base import NEGATIVE, POSITIVE, ConstantGuidance, Pass, guidances


@guidances.register("classifier-free")
@dataclass(frozen=True)
class ClassifierFreeGuidance(ConstantGuidance):
    """Classifier-free guidance, negative + scale (positive - negative) (arXiv 2207.12598).

    Rescale (arXiv 2305.08891, equations 15 and 16) brings the standard deviation of the result back to
    that of the positive prediction: 0 is off, 1 is full. The official pipeline's files use 1 for "off";
    convert them. CFG* (from CFG-Zero*, arXiv 2503.18886) first projects: the negative prediction is scaled by
    <positive, negative> / |negative|^2. Both are taken per sample over all tokens and channels, so that a batch
    gives what single calls give.

    Attributes:
        scale: w >= 0. At 1 or below no negative pass is run, as in Diffusers.
        rescale: Share of the rescaled prediction, in [0, 1].
        star: Whether to project the negative prediction (CFG*).

    Raises:
        InputError: If a number is out of range.
    """

    scale: float = 3.0
    rescale: float = 0.0
    star: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise InputError("the guidance scale must be a number of at least 0", got=self.scale)
        if not 0 <= self.rescale <= 1:
            raise InputError("the guidance rescale must be in [0, 1]", got=self.rescale)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Negative and positive, or positive only where guidance is off."""
        return (NEGATIVE, POSITIVE) if self.scale > 1 else (POSITIVE,)

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """The guided velocity (B, L, C)."""
        guided = self._by_text(predictions)
        return guided if len(predictions) == 1 else self._rescaled(guided, predictions[1])

    def _by_text(self, predictions: Sequence[Tensor]) -> Tensor:
        """The prediction led away from the negative text, before the rescale."""
        if self.scale <= 1:
            return predictions[0]
        negative, positive = predictions[:2]
        if self.star:
            negative = negative * _projection(positive, negative)
        return negative + self.scale * (positive - negative)

    def _rescaled(self, guided: Tensor, positive: Tensor) -> Tensor:
        if self.rescale == 0:
            return guided
        ratio = _std(positive) / _std(guided).clamp_min(torch.finfo(guided.dtype).tiny)
        return guided * (self.rescale * ratio + (1 - self.rescale))


def _std(prediction: Tensor) -> Tensor:
    """Standard deviation of each sample (B, 1, ...)."""
    return prediction.std(dim=tuple(range(1, prediction.ndim)), keepdim=True)


def _projection(positive: Tensor, negative: Tensor) -> Tensor:
    """<positive, negative> / |negative|^2 of each sample (B, 1, ...); the small number is the official one."""
    axes = tuple(range(1, positive.ndim))
    dot = (positive * negative).sum(dim=axes, keepdim=True)
    return dot / (negative.square().sum(dim=axes, keepdim=True) + 1e-8)
