"""Data: procedural worlds, readers of videos and pictures, and the pictures that are made to be looked at."""

from __future__ import annotations

from ..registry import Registry

data_readers: Registry = Registry("data reader", builtins=(f"{__name__}.shape_clips",))

__all__ = ["data_readers"]
