"""Checks of a model config that several parts share."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import InputError


def check_lengths(count: int, **settings: Sequence) -> None:
    """Check that every setting, a list with an entry per stage, has at least `count` entries.

    Raises:
        InputError: If one is shorter; the message names it.
    """
    for name, values in settings.items():
        if len(values) < count:
            raise InputError(f"{name} is too short", got=list(values), expected=f"{count} entries")
