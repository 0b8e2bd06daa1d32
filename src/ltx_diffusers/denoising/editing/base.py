"""What an editor is, the registry of editors, and the model as they see it.

All work on rectified flow, x = (1 - sigma) x0 + sigma e, whose velocity is dx/dsigma = e - x0: 0 is the video, 1 is
noise. Papers that write time t from noise to video mean t = 1 - sigma.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from ...errors import InputError, RegistrationError
from ...registry import Registry
from ..guidance import Guidance, Pass
from ..guidance.base import ConstantGuidance
from ..samplers import Draw
from ..state import TokenState
from ..velocity import GuidedVelocity

SOURCE, TARGET = "source", "target"
"""What an editor asks the model about: the video as it is, or as it shall be."""


class EditVelocity(Protocol):
    """The model under the two prompts of an edit."""

    def __call__(self, tokens: Tensor, sigma: float, text: str) -> Tensor:
        """Guided velocity (B, L, C) of tokens (B, L, C) at a noise level, by "source" or "target"."""
        ...


class EditStep(NamedTuple):
    """What came of one step: the noise level that it began at, and the tokens (B, L, C) after it."""

    sigma: float
    tokens: Tensor


class Editor(Protocol):
    """A way to change a video by a prompt, without training.

    An object holds settings only, so that it may serve many videos.

    Attributes:
        source_guidance_share: Guidance under the source prompt where the caller names none, as a share of the
            target's: the scale is 1 + share (target's scale - 1), so that an unguided model stays unguided.
    """

    source_guidance_share: ClassVar[float]

    def num_steps(self, levels: Sequence[float]) -> int:
        """How many steps `edit` takes with these noise levels; 0 if they leave nothing to do."""
        ...

    def edit(
        self, source: Tensor, levels: Sequence[float], velocity: EditVelocity, draw: Draw
    ) -> Iterator[EditStep]:
        """Edit a video, step by step; the tokens of the last step are the result.

        Args:
            source: The video's clean tokens (B, L, C).
            levels: Falling noise levels, the last one 0.
            velocity: The model.
            draw: Gaussian noise (B, L, C), new at every call.
        """
        ...


def _check_editor(name: str, entry: type[Editor]) -> None:
    missing = [part for part in ("source_guidance_share", "num_steps", "edit") if not hasattr(entry, part)]
    if missing:
        raise RegistrationError(
            f"the editor {name!r} must be a class with source_guidance_share, num_steps(levels) and "
            "edit(source, levels, velocity, draw)",
            got=f"{getattr(entry, '__name__', entry)} without {', '.join(missing)}",
        )


editors: Registry[type[Editor]] = Registry("editor", _check_editor)


def check_unit(name: str, value: float) -> None:
    """Check a noise level or a share.

    Raises:
        InputError: If it isn't a number in [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number in [0, 1]", got=value)


def steps_from(levels: Sequence[float], highest: float) -> int:
    """How many steps begin at or below a noise level.

    Args:
        levels: Falling noise levels, the last one 0.
        highest: The level; one that differs by rounding only counts.
    """
    return sum(level <= highest + 1e-6 for level in levels[:-1])


class ModelOfEdit:
    """`EditVelocity` by a transformer.

    Args:
        model: With the texts "positive" (the target prompt), "source" and, where a guidance wants it, "negative".
        state: The video's tokens; gives size and coordinates.
        guidances: Guidance for `SOURCE` and `TARGET`, each written for "positive" as usual.
        timestep_scale: Timestep at noise level 1.
    """

    def __init__(
        self,
        model: GuidedVelocity,
        state: TokenState,
        guidances: Mapping[str, Guidance],
        timestep_scale: float = 1000.0,
    ) -> None:
        self._model = model
        self._state = state
        self._guidances = guidances
        self._timestep_scale = timestep_scale

    def __call__(self, tokens: Tensor, sigma: float, text: str) -> Tensor:
        """See `EditVelocity`."""
        guidance = self._guidances[text].at(sigma)
        self._model.guidance = OfSource(guidance) if text == SOURCE else guidance
        timestep = self._state.strength.new_full((tokens.shape[0],), sigma * self._timestep_scale)
        return self._model(replace(self._state, tokens=tokens), timestep)


@dataclass(frozen=True)
class OfSource(ConstantGuidance):
    """A guidance at one noise level, towards the source prompt: its "positive" passes read the text "source".

    Its passes differ from those towards the target, so that step caches don't mix the two.

    Attributes:
        guidance: Any guidance.
    """

    guidance: Guidance

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The guidance's passes with the source prompt."""
        return tuple(
            replace(run, text=SOURCE) if run.text == "positive" else run for run in self.guidance.passes
        )

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """One velocity (B, L, C), as the guidance combines them."""
        return self.guidance.combine(predictions)
