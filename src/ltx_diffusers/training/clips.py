"""The data reader that a config names, built."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..data import data_readers
from ..data.clips import ClipReader
from ..errors import InputError
from .config import DataConfig, check_settings, override_values, parse_config, read_values

_COMMON = ("num_frames", "height", "width", "split", "seed")


def open_clips(data: DataConfig, split: Literal["train", "held-out"] = "train") -> ClipReader:
    """Build the reader of a config's `data`, for one split.

    Raises:
        InputError: If the reader doesn't know an option, misses one, or can't use its value.
        UnknownNameError: If no data reader has that name.
    """
    reader = data_readers.get(data.reader)
    known = {
        name: parameter
        for name, parameter in inspect.signature(reader).parameters.items()
        if name not in _COMMON
    }
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        check_settings(data.options, known, "data.options")
    for name, parameter in known.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if needed and name not in data.options:
            raise InputError(f"the data reader {data.reader!r} needs the config key 'data.options.{name}'")
    return reader(data.num_frames, data.height, data.width, split, data.seed, **data.options)


def read_data_config(path: Path | None, values: dict[str, Any], overrides: Sequence[str] = ()) -> DataConfig:
    """The `data` of a training config alone.

    Args:
        path: The config file; None for the defaults.
        values: Replace what the file says, key by key.
        overrides: Assignments within `data`, such as "num_frames=9".

    Raises:
        InputError: If the file can't be read, or a key or value isn't valid.
    """
    section = {} if path is None else read_values(path).get("data") or {}
    if not isinstance(section, dict):
        raise InputError("config key 'data' must hold keys and values", got=type(section).__name__)
    return parse_config(DataConfig, override_values({**section, **values}, overrides))
