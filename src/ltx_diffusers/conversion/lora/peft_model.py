"""LoRAs inside a model: PEFT's layers, looked at and taken out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from peft.tuners.lora import LoraLayer as PeftLayer
from torch import Tensor, nn

from ...errors import InputError
from .adapter_config import peft_settings
from .layers import Lora, LoraLayer
from .names import find_layer


def lora_modules(model: nn.Module, adapter_name: str | None = None) -> Iterator[tuple[str, PeftLayer]]:
    """PEFT's layers in a model by name: all of them, or those that have one adapter."""
    for name, module in model.named_modules():
        if isinstance(module, PeftLayer) and (adapter_name is None or adapter_name in module.lora_A):
            yield name, module


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of each linear layer's weight by its name in the model without adapters, quantised layers included."""
    shapes = {}
    for name, module in model.named_modules():
        base = module.get_base_layer() if isinstance(module, PeftLayer) else module
        if hasattr(base, "in_features") and hasattr(base, "out_features") and find_layer(name):
            shapes[f"{name}.weight"] = (base.out_features, base.in_features)
    return shapes


def fused_adapters(model: nn.Module) -> set[str]:
    """Names of the adapters that are fused into the model's weights."""
    return {name for _, module in lora_modules(model) for name in module.merged_adapters}


def extract_adapter(model: nn.Module, adapter_name: str | None = None) -> Lora:
    """An adapter of a model as a LoRA, with the scale that it was loaded or trained with.

    Args:
        model: A transformer with PEFT adapters.
        adapter_name: Which; None if there is only one.

    Raises:
        InputError: If there is no such adapter, it isn't clear which, or its weights are offloaded.
    """
    known = list(getattr(model, "peft_config", None) or {})
    if adapter_name is None and len(known) == 1:
        adapter_name = known[0]
    if adapter_name not in known:
        raise InputError(
            "which adapter is meant?"
            if adapter_name is None
            else f"the model has no adapter {adapter_name!r}",
            got=f"adapters {', '.join(known)}" if known else "a model without adapters",
            fix="pass adapter_name" if known else None,
        )
    layers = {}
    for name, module in lora_modules(model, adapter_name):
        layer = _layer_of(module, adapter_name)
        if any(tensor.is_meta for tensor in layer.tensors):
            raise InputError(
                f"the weights of the adapter {adapter_name!r} are offloaded",
                fix="save before enable_sequential_cpu_offload(), or after reset_device_map() or remove_all_hooks()",
            )
        layers[name] = layer
    return Lora(layers)


def for_swapping(model: nn.Module, adapter_name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that PEFT may put in place of an adapter's.

    Where the new rank is larger, PEFT 0.21 exchanges the content of the two tensors: so these are copies, of the
    adapter's dtype and device, and parameters as a module's tensors must be.
    """
    _, module = next(lora_modules(model, adapter_name))
    present = module.lora_A[adapter_name].weight
    return {
        name: nn.Parameter(tensor.to(present.device, present.dtype, copy=True), requires_grad=False)
        for name, tensor in tensors.items()
    }


def storage_without_sums(layer: nn.Module) -> str | None:
    """How a linear layer, with adapters or without, stores its weight, if nothing can be added to it; else None."""
    base = layer.get_base_layer() if isinstance(layer, PeftLayer) else layer
    # By name, because the module of this class can be imported only where the package gguf is installed.
    if type(base).__name__ == "GGUFLinear":
        return "GGUF blocks"
    return "float8 numbers" if _is_8_bit_float(base.weight) else None


def _is_8_bit_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize == 1


def restore_numbers(model: nn.Module, adapter_name: str, lora: Lora, dtype: torch.dtype) -> None:
    """Give a LoRA's numbers back to an adapter that PEFT rounded to float8, as layers are under layerwise casting.

    Args:
        model: The model.
        adapter_name: The adapter that was just loaded.
        lora: What it was loaded from.
        dtype: In which the model computes.
    """
    for name, module in lora_modules(model, adapter_name):
        down, up = module.lora_A[adapter_name], module.lora_B[adapter_name]
        if not _is_8_bit_float(down.weight):
            continue
        layer, device = lora.layers[name], down.weight.device
        pairs = [(down, "weight", layer.down), (up, "weight", layer.up)]
        if up.bias is not None:
            pairs.append((up, "bias", torch.zeros(up.out_features) if layer.bias is None else layer.bias))
        for part, parameter, numbers in pairs:
            setattr(part, parameter, nn.Parameter(numbers.to(device, dtype), requires_grad=False))


def set_scales(model: nn.Module, adapter_name: str, lora: Lora) -> None:
    """Give an adapter the ranks and scales of the LoRA that was just swapped in.

    PEFT 0.21 looks for a swapped layer's rank and alpha under the name of its matrix, where no pattern fits, and keeps
    those of the first LoRA for later `set_adapters`.
    """
    config = model.peft_config[adapter_name]
    for setting, value in peft_settings(lora).items():
        if setting != "target_modules":
            setattr(config, setting, value)
    for name, module in lora_modules(model, adapter_name):
        layer = lora.layers.get(name)
        if layer is None:
            continue  # PEFT has set its matrices to zero
        module.r[adapter_name] = layer.rank
        module.lora_alpha[adapter_name] = layer.alpha
        scale = module.scaling[adapter_name]
        # `enable_lora_hotswap` makes it a tensor, so that compiled code sees changes.
        if isinstance(scale, Tensor):
            scale.fill_(layer.scale)
        else:
            module.scaling[adapter_name] = layer.scale


def _layer_of(module: PeftLayer, adapter_name: str) -> LoraLayer:
    down, up = module.lora_A[adapter_name].weight, module.lora_B[adapter_name]
    rank, alpha = module.r[adapter_name], float(module.lora_alpha[adapter_name])
    scale = alpha / rank**0.5 if module.use_rslora.get(adapter_name) else alpha / rank
    # Rows beyond the rank are zeros that `enable_lora_hotswap` padded with.
    magnitude = module.lora_magnitude_vector
    return LoraLayer(
        down=down.detach()[:rank],
        up=up.weight.detach()[:, :rank],
        alpha=alpha if scale == alpha / rank else scale * rank,
        magnitude=magnitude[adapter_name].weight.detach() if adapter_name in magnitude else None,
        bias=None if up.bias is None else up.bias.detach(),
    )
