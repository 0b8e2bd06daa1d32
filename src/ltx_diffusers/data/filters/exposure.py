"""Brightness and contrast of a scene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from . import filters
from .scene import Scene


@filters.register("exposure")
class ExposureFilter:
    """Mean brightness, and how much it differs within a picture."""

    scores: ClassVar[Mapping[str, str]] = {
        "brightness": "mean brightness, 0 black to 1 white",
        "contrast": "standard deviation of brightness within a picture, 0 to 0.5",
    }

    def __call__(self, scene: Scene) -> dict[str, float]:
        """The numbers of a scene; none without thumbnails."""
        if not len(scene.thumbnails):
            return {}
        grey = scene.brightness() / 255
        return {"brightness": float(grey.mean()), "contrast": float(grey.std(axis=(1, 2)).mean())}
