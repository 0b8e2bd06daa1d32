"""Filters: numbers that tell which pictures and scenes of videos are worth training on.

A filter is a class without arguments whose objects give numbers of a `Scene`:

1. `scores` names each number and says what it is, with its unit.
2. `filter(scene)` gives some or all of them; a number that makes no sense for this scene is left out, such as the
   motion of a picture. They follow from the scene alone, and are finite.
3. The scene is left as it was.

What is kept is decided later, from the numbers (`ltx_diffusers.data.filters.rules`): another limit needs no new
measuring.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import RegistrationError
from ...registry import Registry

_FILTERS = ("facts", "motion", "exposure", "blur")


def _check_filter(name: str, entry: object) -> None:
    scores = getattr(entry, "scores", None)
    if not callable(entry) or not isinstance(scores, Mapping) or not scores:
        raise RegistrationError(
            f"the filter {name!r} must be a class whose `scores` name its numbers", got=repr(entry)
        )


filters: Registry = Registry(
    "filter", check=_check_filter, builtins=tuple(f"{__name__}.{module}" for module in _FILTERS)
)

__all__ = ["filters"]
