"""Reports as plain values that JSON can hold."""

from __future__ import annotations

import math
from typing import Any

_DIGITS = 6


def rounded(value: Any, digits: int = _DIGITS) -> Any:
    """A report with its numbers rounded to significant digits; what isn't finite becomes None.

    Args:
        value: Dictionaries, lists, numbers, texts, None.
        digits: Significant digits of floats.
    """
    if isinstance(value, dict):
        return {key: rounded(entry, digits) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry, digits) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
