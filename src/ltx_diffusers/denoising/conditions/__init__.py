"""Conditions: what is given to the model besides the prompt, one file each."""

from .base import Condition, conditions
from .clip import ClipCondition
from .first_frame import FirstFrameCondition
from .in_place import InPlaceCondition
from .keyframe import KeyframeCondition
from .reference import ReferenceCondition
from .region import RegionCondition

__all__ = [
    "ClipCondition",
    "Condition",
    "FirstFrameCondition",
    "InPlaceCondition",
    "KeyframeCondition",
    "ReferenceCondition",
    "RegionCondition",
    "conditions",
]
