"""The processes of a run, as their launcher (`accelerate launch`, torchrun) describes them."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import PartialState

_PATIENCE = timedelta(hours=2)
"""How long processes wait for one that validates or exports alone, before they take it for lost."""


def join_processes() -> PartialState:
    """This process's place among those of the run; the first call connects them.

    Accelerate connects processes that have no accelerator only if it is told to use the CPU; without that each of them
    would take itself for the whole run.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not launched:
        return PartialState()
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
