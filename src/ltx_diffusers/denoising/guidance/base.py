"""What a guidance is, and the registry of guidances.

A guidance names the passes that it needs and combines their predictions. The usual order of passes is
[negative, positive, perturbed], as in the official pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ...errors import RegistrationError
from ...models.transformers.perturbation import Perturbation
from ...registry import Registry


@dataclass(frozen=True)
class Pass:
    """One run of the model over a batch of videos.

    Attributes:
        text: "positive" (the prompt) or "negative".
        perturbation: What is perturbed in the model, if anything.
    """

    text: str
    perturbation: Perturbation | None = None


NEGATIVE, POSITIVE = Pass("negative"), Pass("positive")


class Guidance(Protocol):
    """Combines the predictions of several passes through the model."""

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Runs of the model that it needs, in the order in which `combine` takes them."""
        ...

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """One velocity (B, L, C) from those of `passes`, each (B, L, C) float32."""
        ...

    def at(self, sigma: float) -> Guidance:
        """The guidance at a noise level in [0, 1]; itself where it is the same at all of them."""
        ...

    def all_passes(self) -> frozenset[Pass]:
        """Every pass that it needs at any noise level."""
        ...


class ConstantGuidance:
    """Base of guidances that are the same at every noise level."""

    def at(self, sigma: float) -> Guidance:
        """Itself."""
        return self

    def all_passes(self) -> frozenset[Pass]:
        """Its passes."""
        return frozenset(self.passes)


def _check_guidance(name: str, entry: type[Guidance]) -> None:
    missing = [part for part in ("passes", "combine", "at", "all_passes") if not hasattr(entry, part)]
    if missing:
        raise RegistrationError(
            f"the guidance {name!r} must be a class with `passes`, combine(predictions), at(sigma) and all_passes()",
            got=f"{getattr(entry, '__name__', entry)} without {', '.join(missing)}",
            fix="derive it from ConstantGuidance, which adds the last two",
        )


guidances: Registry[type[Guidance]] = Registry("guidance", _check_guidance)
