"""Data: readers of clips, files of videos and pictures, procedural worlds, and pictures that are made to be looked at.

What a registered data reader has to be is written down in `ltx_diffusers.data.clips.ClipReader`.
"""

from __future__ import annotations

from ..registry import Registry

data_readers: Registry = Registry("data reader", builtins=(f"{__name__}.shape_clips",))

__all__ = ["data_readers"]
