"""Sizes of memory as people write them."""

from __future__ import annotations

import re

from ..errors import InputError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_memory(size: str | int) -> int:
    """Bytes from a whole number, or text such as "6GB", "500 MB" or "4GiB".

    Raises:
        InputError: If it isn't one, or isn't positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    unit = None if found is None or isinstance(size, (bool, float)) else _UNITS.get(found[2].upper())
    count = 0 if unit is None else int(float(found[1]) * unit)
    if count <= 0:
        raise InputError(
            "a memory budget must be a positive number of bytes",
            got=repr(size),
            expected='a whole number, or text such as "6GB" or "500MB"',
        )
    return count
