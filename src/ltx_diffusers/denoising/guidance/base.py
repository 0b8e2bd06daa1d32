"""What a guidance is, and the registry of guidances.

A guidance names the passes that it needs and combines their predictions. The usual order of passes is
[negative, positive, perturbed], as in the official pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...errors import RegistrationError
from ...geometry import VideoSize
from ...models.transformers.perturbation import Perturbation
from ...registry import Registry


class LayerHooks(Protocol):
    """Changes to the model's layers for one run, which then acts on every row alike."""

    def applied(self, transformer: torch.nn.Module) -> AbstractContextManager[None]:
        """A context in which the layers are changed."""
        ...

    def check(self, transformer: torch.nn.Module) -> None:
        """Check that the layers can be changed.

        Raises:
            InputError: If the model has no such layers.
        """
        ...


@dataclass(frozen=True)
class Pass:
    """One run of the model over a batch of videos.

    Attributes:
        text: "positive" (the prompt) or "negative".
        perturbation: What is perturbed in the model, if anything; only this pass's rows are.
        hooks: What is changed by hooks on layers, if anything; such a pass is a run of the model by itself.
    """

    text: str
    perturbation: Perturbation | None = None
    hooks: LayerHooks | None = None


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

    def for_run(self, levels: Sequence[float], size: VideoSize | None = None) -> Guidance:
        """The guidance for one run; itself if it keeps nothing from step to step and counts no steps.

        Args:
            levels: Noise level of each step, falling.
            size: Latent frames, rows and columns of the video, whose tokens come first.
        """
        ...


class ConstantGuidance:
    """Base of guidances that are the same at every noise level."""

    def at(self, sigma: float) -> Guidance:
        """Itself."""
        return self

    def all_passes(self) -> frozenset[Pass]:
        """Its passes."""
        return frozenset(self.passes)

    def for_run(self, levels: Sequence[float], size: VideoSize | None = None) -> Guidance:
        """Itself."""
        return self


PARTS = ("passes", "combine", "at", "all_passes", "for_run")


def _check_guidance(name: str, entry: type[Guidance]) -> None:
    missing = [part for part in PARTS if not hasattr(entry, part)]
    if missing:
        raise RegistrationError(
            f"the guidance {name!r} must be a class with `passes`, combine(predictions), at(sigma), all_passes() and "
            "for_run(levels, size)",
            got=f"{getattr(entry, '__name__', entry)} without {', '.join(missing)}",
            fix="derive it from ConstantGuidance, which adds the last three",
        )


guidances: Registry[type[Guidance]] = Registry("guidance", _check_guidance)
