"""Models that are sharded over processes by FSDP2: what to cut, and a whole copy for validation and export."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from ..errors import InputError
from .average import WeightAverage
from .config import OptimizerConfig
from .deepspeed import is_deepspeed
from .task import Task

_AVERAGE_FOLDER = "average"
_SHARDABLE = ("adamw", "adamw-8bit", "adamw-4bit", "adamw-fp8")


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether models are cut up among the processes."""
    return accelerator.distributed_type == DistributedType.FSDP


def check_sharding(accelerator: Accelerator, optimizer: OptimizerConfig, *, opposed: bool = False) -> None:
    """Check that a model can be sharded as the launcher asks.

    Args:
        accelerator: As the launcher set it up.
        optimizer: The model's.
        opposed: Whether an adversary is trained, too.

    Raises:
        InputError: If not.
    """
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InputError(
            "FSDP's first version isn't supported", fix="set fsdp_version: 2 in accelerate's config"
        )
    if not (is_sharded(accelerator) or is_deepspeed(accelerator)):
        return
    if opposed:
        raise InputError(
            "a run with discriminators can't be sharded", fix="launch it without FSDP and DeepSpeed"
        )
    possible = _SHARDABLE if is_sharded(accelerator) else ("adamw",)
    if optimizer.name not in possible or optimizer.offload:
        offload = " and offload=true" if optimizer.offload else ""
        raise InputError(
            "this optimizer can't work on a sharded model",
            got=f"name={optimizer.name}{offload}",
            expected=" or ".join(possible),
            fix="the launcher's own settings can offload: fsdp_offload_params or offload_optimizer_device",
        )


def is_in_parts(module: torch.nn.Module) -> bool:
    """Whether a module's weights are parts that its processes gather together, each time that they all call it."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def calls_behind(module: torch.nn.Module, calls: int) -> int:
    """How many calls of a module the process with the most makes beyond this one's; 0 if it isn't in parts.

    All processes have to ask, before their first call.
    """
    if not is_in_parts(module):
        return 0
    most = torch.tensor(calls, device=next(module.parameters()).device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most) - calls


def cut_at_blocks(accelerator: Accelerator, module: torch.nn.Module) -> None:
    """Unless the launcher's config names layers, let FSDP cut at the blocks that the models inside name themselves."""
    plugin = accelerator.state.fsdp_plugin
    if plugin.transformer_cls_names_to_wrap:
        return
    names = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    present = {type(part).__name__ for part in module.modules()}
    plugin.transformer_cls_names_to_wrap = sorted(names & present)
    if not plugin.transformer_cls_names_to_wrap:
        plugin.auto_wrap_policy = None  # the model as one piece


class WholeCopy:
    """A whole copy of a task's module in the main process's memory, which a sharded one is gathered into.

    Args:
        task: The task, whose module isn't sharded yet.
        accelerator: Of the run.
    """

    def __init__(self, task: Task, accelerator: Accelerator) -> None:
        self._task = task
        self._accelerator = accelerator
        self._copy = copy.deepcopy(task.module) if accelerator.is_main_process else None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """In the main process the task's module is whole, on its device. All processes have to enter."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        sharded = self._task.module
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(sharded, options=options)
        if self._copy is None:
            yield
            return
        self._copy.load_state_dict(state)
        self._task.module = self._copy.to(self._accelerator.device).eval()
        try:
            yield
        finally:
            self._task.module = sharded
            self._copy.to("cpu")


class ShardedAverage(WeightAverage):
    """A moving average of sharded weights. Each process keeps its part, and writes it into the checkpoint by itself."""

    def state_dict(self) -> dict:
        """Settings only."""
        return {name: value for name, value in super().state_dict().items() if name != "shadow_params"}

    def load_state_dict(self, state: dict) -> None:
        """Take over the settings; the averages come by `load_parts`."""
        super().load_state_dict({"shadow_params": self.shadow_params} | state)

    def save_parts(self, checkpoint: Path) -> None:
        """Write the averages into a checkpoint's folder, every process its part."""
        if self.shadow_params:
            import torch.distributed.checkpoint as parts

            parts.save(self._named(), checkpoint_id=checkpoint / _AVERAGE_FOLDER)

    def load_parts(self, checkpoint: Path) -> None:
        """Read the averages of a checkpoint that any number of processes wrote."""
        if self.shadow_params and (checkpoint / _AVERAGE_FOLDER).is_dir():
            import torch.distributed.checkpoint as parts

            parts.load(self._named(), checkpoint_id=checkpoint / _AVERAGE_FOLDER)

    def _named(self) -> dict[str, Any]:
        return {str(index): average for index, average in enumerate(self.shadow_params)}
