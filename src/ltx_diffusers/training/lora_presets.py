"""Settings of LoRA runs by model and GPU memory: where `ltx-diffusers train lora` starts from.

A preset is a part of a `TransformerTrainConfig`, as plain values. `configs/lora/2b-24gb.yaml` holds the same as the
preset of that name, for `ltx-diffusers train transformer --config`. By the counts of benchmarks/lora_memory.py each
leaves a tenth of its GPU and more.
"""

from __future__ import annotations

import copy
from typing import Any

from ..errors import UnknownNameError

_OPTIMIZER = {
    "name": "adamw",
    "learning_rate": 2e-4,
    "betas": [0.9, 0.999],
    "weight_decay": 0.01,
    "warmup_steps": 50,
    "schedule": "constant",
}
_LARGE: dict[str, Any] = {
    "precision": "bf16",
    "base_dtype": "bfloat16",
    "text_length": 256,
    "text_encoder_device": "cpu",
    "ema_decay": 0.0,
    "steps": 2000,
    "batch_size": 1,
    "checkpoint_every": 250,
    "validate_every": 500,
    "gradient_checkpointing": True,
    "adapter": {"rank": 32},
    "conditions": {"first_frame": 0.3, "noise": 0.05},
    "caption_dropout": 0.1,
    "validation_prompts": 1,
    "optimizer": _OPTIMIZER,
    "data": {"num_frames": 49, "height": 512, "width": 768, "frame_rate": 25.0},
}


def _changed(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with changes; those of sections change single keys."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        result[key] = {**result[key], **value} if isinstance(value, dict) else value
    return result


_ROOMY = _changed(_LARGE, gradient_checkpointing=False, text_encoder_device="auto")

PRESETS: dict[str, dict[str, Any]] = {
    "embedded": {
        "text_length": 32,
        "ema_decay": 0.99,
        "steps": 1500,
        "batch_size": 16,
        "cached_clips": 2048,
        "checkpoint_every": 250,
        "validate_every": 500,
        "adapter": {"rank": 16, "targets": ["attn*.to_*", "ff.net.*"]},
        "conditions": {"first_frame": 0.2},
        "attention_backend": "_native_math",
        "validation_prompts": 4,
        "optimizer": {**_OPTIMIZER, "learning_rate": 2e-3, "weight_decay": 0.0, "schedule": "cosine"},
        "data": {"num_frames": 17, "height": 96, "width": 96, "frame_rate": 8.0},
    },
    "2b-12gb": _changed(_LARGE, adapter={"rank": 16}),
    "2b-24gb": _LARGE,
    "2b-48gb": _changed(_ROOMY, batch_size=2),
    "2b-80gb": _changed(_ROOMY, batch_size=4, adapter={"rank": 64}),
    "13b-24gb": _changed(_LARGE, base_storage="fp8", adapter={"rank": 16}),
    "13b-48gb": _LARGE,
    "13b-80gb": _changed(_LARGE, batch_size=4, text_encoder_device="auto"),
}
"""By name: size of the model, and memory of the GPU. "embedded" is for the model in the package, on a CPU."""


def lora_preset(name: str) -> dict[str, Any]:
    """A copy of a preset.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    if name not in PRESETS:
        raise UnknownNameError("unknown preset", got=repr(name), expected=", ".join(PRESETS))
    return copy.deepcopy(PRESETS[name])
