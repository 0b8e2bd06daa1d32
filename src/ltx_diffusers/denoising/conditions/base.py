"""What a condition is, and the registry of conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ...errors import RegistrationError
from ...registry import Registry

if TYPE_CHECKING:
    from ..state import TokenState


class Condition(Protocol):
    """Something given to the model besides the prompt: a first frame, a keyframe, a reference.

    A condition is a pure function on states whose tokens are noise still. It may set `strength` and `clean`
    of target tokens, or append tokens with their own noise, coordinates, strength and clean latents (raising
    `num_extra`). It must not look at the other conditions: they are applied in the order given.
    """

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with this condition in it.

        Raises:
            InputError: If the condition doesn't fit the state's size or batch.
        """
        ...


def _check_condition(name: str, entry: type[Condition]) -> None:
    if not callable(getattr(entry, "apply_to", None)):
        raise RegistrationError(
            f"the condition {name!r} must be a class with a method apply_to(state) -> state",
            got=getattr(entry, "__name__", entry),
        )


conditions: Registry[type[Condition]] = Registry("condition", _check_condition)
