"""Conditions: what is given to the model besides the prompt, one file each."""

from .base import Condition, conditions
from .first_frame import FirstFrameCondition

__all__ = ["Condition", "FirstFrameCondition", "conditions"]
