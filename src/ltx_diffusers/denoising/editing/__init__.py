"""Editing of videos by a model that was not trained for it: each editor in one file."""

from .base import Editor, EditStep, EditVelocity, editors
from .flow_edit import FlowEdit
from .rf_inversion import RFInversion

__all__ = ["EditStep", "EditVelocity", "Editor", "FlowEdit", "RFInversion", "editors"]
