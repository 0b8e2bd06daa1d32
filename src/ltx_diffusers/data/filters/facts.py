"""Size, length and caption of a scene, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import filters
from .scene import Scene


@filters.register("facts")
class FactsFilter:
    """Length, size, frame rate and caption, as they are."""

    scores: ClassVar[Mapping[str, str]] = {
        "seconds": "duration in seconds (videos)",
        "frames": "number of frames (videos)",
        "frame_rate": "frames per second (videos)",
        "width": "in pixels, without black bars if they are cut off",
        "height": "in pixels, without black bars if they are cut off",
        "caption_words": "words of the caption",
    }

    def __call__(self, scene: Scene) -> dict[str, float]:
        """The numbers of a scene."""
        found = {
            "width": scene.width,
            "height": scene.height,
            "caption_words": len(scene.caption.split()),
        }
        if not scene.is_picture:
            found |= {
                "seconds": scene.seconds,
                "frames": scene.num_frames,
                "frame_rate": scene.frame_rate or 0.0,
            }
        return found
