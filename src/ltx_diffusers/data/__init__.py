"""Data: readers of clips, files of videos and pictures, procedural worlds, and pictures that are made to be looked at.

What a registered data reader has to be is written down in `ltx_diffusers.data.clips.ClipReader`.
"""

from __future__ import annotations

from ..registry import Registry

_READERS = ("shape_clips", "folder_clips", "list_clips", "tar_clips", "hf_clips")

data_readers: Registry = Registry(
    "data reader", builtins=tuple(f"{__name__}.{module}" for module in _READERS)
)

__all__ = ["data_readers"]
