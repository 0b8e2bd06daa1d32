"""Guidance: how predictions with and without the prompt, or with perturbed attention, become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Guidance, Pass, guidances
from .by_level import GuidanceByLevel
from .classifier_free import ClassifierFreeGuidance
from .spatiotemporal import SpatioTemporalGuidance

if TYPE_CHECKING:
    from .diffusers_guiders import DiffusersGuidance as DiffusersGuidance

__all__ = [
    "ClassifierFreeGuidance",
    "DiffusersGuidance",
    "Guidance",
    "GuidanceByLevel",
    "Pass",
    "SpatioTemporalGuidance",
    "guidances",
]


def __getattr__(name: str) -> object:
    """Diffusers' guiders bring large libraries with them, so they are imported when they are asked for."""
    if name != "DiffusersGuidance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .diffusers_guiders import DiffusersGuidance

    return DiffusersGuidance
