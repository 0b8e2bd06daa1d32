"""Guidance: how predictions with and without the prompt, or with perturbed attention, become one."""

from .base import Guidance, Pass, guidances
from .by_level import GuidanceByLevel
from .classifier_free import ClassifierFreeGuidance
from .spatiotemporal import SpatioTemporalGuidance

__all__ = [
    "ClassifierFreeGuidance",
    "Guidance",
    "GuidanceByLevel",
    "Pass",
    "SpatioTemporalGuidance",
    "guidances",
]
