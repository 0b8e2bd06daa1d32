"""Data: procedural worlds, readers of videos and pictures, and the pictures that are made to be looked at."""

from __future__ import annotations

from ..registry import Registry

data_readers: Registry = Registry("data reader")

from . import shape_clips as _shape_clips  # noqa: E402, F401 - registers the built-in readers

__all__ = ["data_readers"]
