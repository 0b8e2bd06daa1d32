"""Runs whose gradients and optimizer DeepSpeed cuts up among the processes (ZeRO-1 and ZeRO-2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType

from ..errors import InputError
from .config import RunConfig


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed takes the steps."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def take_over_deepspeed(accelerator: Accelerator, config: RunConfig) -> None:
    """Put a run's own settings into DeepSpeed's, whatever the launcher's config says of them.

    Raises:
        InputError: If the launcher asks for ZeRO-3, under which no process has whole weights to average and export.
    """
    plugin = accelerator.state.deepspeed_plugin
    if plugin.zero_stage > 2:
        raise InputError(
            "DeepSpeed's ZeRO-3 isn't supported",
            got=f"zero_stage: {plugin.zero_stage}",
            expected="1 or 2",
            fix="to cut the weights up as well, launch with FSDP2 (configs/accelerate/fsdp2.yaml)",
        )
    accelerator.gradient_accumulation_steps = config.accumulate
    settings = plugin.deepspeed_config
    settings |= {
        "train_micro_batch_size_per_gpu": 1,  # it wants one, for its own reports of speed
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": config.optimizer.gradient_clip,
    }
    if config.precision == "bf16":
        # As everywhere: weights and averages stay in float32. Its own "bf16" would train and average rounded ones.
        settings["bf16"] = {"enabled": False}
        settings["torch_autocast"] = {
            "enabled": True,
            "dtype": "torch.bfloat16",
            "lower_precision_safe_modules": [],  # those whose gradients are summed up in bfloat16
        }


def check_same_processes(accelerator: Accelerator, record: Mapping[str, Any]) -> None:
    """Check that a checkpoint of DeepSpeed's comes from as many processes as there are now.

    Args:
        accelerator: Of the run.
        record: What was recorded with the checkpoint.

    Raises:
        InputError: If not.
    """
    wrote = record.get("processes", accelerator.num_processes)
    if wrote != accelerator.num_processes:
        raise InputError(
            "a checkpoint of DeepSpeed's goes on on as many processes as wrote it",
            got=f"{accelerator.num_processes} processes",
            expected=wrote,
            fix="start as many, or train with configs/accelerate/ddp.yaml or fsdp2.yaml, whose checkpoints move",
        )
