"""Spatio-temporal guidance: led away from a prediction with perturbed self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import InputError
from ...models.transformers.perturbation import Perturbation
from .base import Pass, guidances
from .classifier_free import ClassifierFreeGuidance


@guidances.register("spatio-temporal")
@dataclass(frozen=True)
class SpatioTemporalGuidance(ClassifierFreeGuidance):
    """Classifier-free guidance plus stg_scale (positive - perturbed) (STG, arXiv 2411.18664).

    The rescale comes last and acts on the whole. The perturbed pass has the positive text and only exists where
    `stg_scale` is above 0; the official pipeline also runs it, without effect, if no block is named.

    Attributes:
        scale: See `ClassifierFreeGuidance`.
        rescale: See `ClassifierFreeGuidance`.
        star: See `ClassifierFreeGuidance`.
        stg_scale: Weight of the perturbed difference, >= 0.
        stg_blocks: Transformer blocks whose self-attention is perturbed; () switches it off.
        stg_mode: How, one of `models.transformers.perturbation.MODES`.

    Raises:
        InputError: If a number is out of range.
        UnknownNameError: If there is no such mode.
    """

    stg_scale: float = 1.0
    stg_blocks: tuple[int, ...] = ()
    stg_mode: str = "attention-values"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stg_scale < float("inf"):
            raise InputError("the scale of spatio-temporal guidance must be at least 0", got=self.stg_scale)
        object.__setattr__(self, "stg_blocks", tuple(self.stg_blocks))
        Perturbation(self.stg_blocks or (0,), self.stg_mode)  # so that a wrong name is found here

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Those of the text, and the perturbed one."""
        if not self.perturbs:
            return super().passes
        return (*super().passes, Pass("positive", Perturbation(self.stg_blocks, self.stg_mode)))

    @property
    def perturbs(self) -> bool:
        """Whether there is a perturbed pass."""
        return self.stg_scale > 0 and len(self.stg_blocks) > 0

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """The guided velocity (B, L, C)."""
        if not self.perturbs:
            return super().combine(predictions)
        positive, perturbed = predictions[-2:]
        guided = self._by_text(predictions) + self.stg_scale * (positive - perturbed)
        return self._rescaled(guided, positive)
