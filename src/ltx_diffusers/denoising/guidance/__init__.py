"""Guidance: how predictions with and without the prompt, or with perturbed attention, become one."""

from .base import Guidance, Pass, guidances
from .by_level import GuidanceByLevel
from .classifier_free import ClassifierFreeGuidance
from .diffusers_guiders import DiffusersGuidance
from .spatiotemporal import SpatioTemporalGuidance

__all__ = [
    "ClassifierFreeGuidance",
    "DiffusersGuidance",
    "Guidance",
    "GuidanceByLevel",
    "Pass",
    "SpatioTemporalGuidance",
    "guidances",
]
