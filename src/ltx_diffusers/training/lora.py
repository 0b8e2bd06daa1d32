"""LoRA and DoRA of the transformer, through PEFT: put in, trained alone, written with alpha."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from ..conversion.lora.files import DIFFUSERS_FILE, write_lora
from ..conversion.lora.peft_model import extract_adapter, linear_shapes
from ..errors import InputError
from .transformer_config import AdapterConfig

COMFYUI_FILE = "comfyui_lora_weights.safetensors"
"""The file for ComfyUI beside Diffusers' in a finished LoRA's folder."""

_WEIGHT = ".weight"


def add_lora(transformer: nn.Module, config: AdapterConfig) -> None:
    """Put an adapter into a transformer, the only part of it that is trained from then on.

    The adapter's weights are float32, whatever the others are. Its second matrix is 0, so that training begins with the
    model as it is.

    Args:
        transformer: An `LTXTransformer3DModel`.
        config: The adapter.

    Raises:
        InputError: If a target fits no linear layer; the message names near ones.
    """
    rank = config.rank
    transformer.requires_grad_(False)
    transformer.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=rank if config.alpha is None else config.alpha,
            target_modules=find_targets(transformer, config.targets),
            lora_dropout=config.dropout,
            use_dora=config.dora,
        )
    )
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def find_targets(transformer: nn.Module, targets: Sequence[str]) -> list[str]:
    """Full names of the linear layers that `AdapterConfig.targets` mean.

    Raises:
        InputError: If one of them fits none; the message names near ones.
    """
    layers = [name.removesuffix(_WEIGHT) for name in linear_shapes(transformer)]
    found: set[str] = set()
    for target in targets:
        fitting = {name for name in layers if fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")}
        if not fitting:
            raise InputError(
                "config key 'adapter.targets': no linear layer of the transformer is called so",
                got=repr(target),
                fix=f"did you mean {' or '.join(near)}?" if (near := _near(target, layers)) else None,
            )
        found |= fitting
    return sorted(found)


def _near(target: str, layers: Sequence[str]) -> list[str]:
    ends = {".".join(name.split(".")[-count:]) for name in layers for count in (1, 2, 3)}
    return difflib.get_close_matches(target, [end for end in ends if not end.isdigit()], n=3)


def keep_trained_only(module: nn.Module) -> None:
    """Leave what isn't trained out of the module's `state_dict`: checkpoints of a LoRA need no copy of its base."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}

    def is_frozen(name: str) -> bool:
        # bitsandbytes keeps the scales of "weight" as "weight.absmax" and so on, and can't read them again.
        while name and name not in frozen:
            name = name.rpartition(".")[0]
        return bool(name)

    def drop(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
        own = [key for key in state if key.startswith(prefix)]
        for key in [key for key in own if is_frozen(key.removeprefix(prefix))]:
            del state[key]

    def accept(_module: nn.Module, keys: Any) -> None:
        missing = [name for name in keys.missing_keys if not any(name.endswith(known) for known in frozen)]
        keys.missing_keys[:] = missing

    module.register_state_dict_post_hook(drop)
    module.register_load_state_dict_post_hook(accept)


def write_trained_lora(
    transformer: nn.Module, folder: Path, dtype: torch.dtype, remarks: Mapping[str, str]
) -> None:
    """Write the adapter of a transformer for Diffusers and for ComfyUI, both with alpha.

    Args:
        transformer: With one adapter.
        folder: Gets `pytorch_lora_weights.safetensors` and `comfyui_lora_weights.safetensors`.
        dtype: Of the tensors.
        remarks: What it was trained on and called by, for the files' metadata.
    """
    lora = replace(extract_adapter(transformer), metadata=dict(remarks))
    write_lora(lora, folder / DIFFUSERS_FILE, "diffusers", dtype)
    write_lora(lora, folder / COMFYUI_FILE, "comfy", dtype)
