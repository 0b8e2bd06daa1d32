"""The formats of LoRA files: tensors by key to and from `Lora`.

| format    | keys                                                     | alpha                              |
|-----------|----------------------------------------------------------|------------------------------------|
| diffusers | transformer.NAME.lora_A.weight, .lora_B.weight           | metadata `lora_adapter_metadata`   |
| peft      | base_model.model.NAME.lora_A.weight                      | adapter_config.json                |
| comfy     | diffusion_model.OFFICIAL_NAME.lora_A.weight, .lora_B     | OFFICIAL_NAME.alpha                |
| kohya     | lora_unet_OFFICIAL_NAME_.lora_down.weight, .lora_up      | same.alpha                         |

Readers aren't strict about who writes what: any prefix goes with any spelling of names and with either pair of
matrices, and without alpha the update isn't scaled (alpha = rank). DoRA's magnitudes are `lora_magnitude_vector` in
the first two and `dora_scale` in the others; biases are `lora_B.bias`, and `diff_b`, which is already scaled.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...errors import CheckpointError, UnknownNameError
from .adapter_config import AdapterConfig, check_representable
from .layers import Lora, LoraLayer
from .names import find_layer, find_parameter, official_name

FORMATS = ("diffusers", "peft", "comfy", "kohya")

_PREFIXES = {
    "base_model.model.": "peft",
    "transformer.": "diffusers",
    "model.diffusion_model.": "comfy",
    "diffusion_model.": "comfy",
    "lora_unet_": "kohya",
    "lora_transformer_": "kohya",  # OneTrainer
    "lycoris_": "kohya",  # LyCORIS
}
_TEXT_ENCODER = ("text_encoder", "text_encoders.", "lora_te", "te.", "te1.")

_PARTS = {
    "lora_A.weight": "down",
    "lora_down.weight": "down",
    "lora_A": "down",
    "lora_B.weight": "up",
    "lora_up.weight": "up",
    "lora_B": "up",
    "lora_B.bias": "bias",
    "alpha": "alpha",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "dora_scale": "magnitude",
    "diff": "difference",
    "diff_b": "bias difference",
}
"""What a key's end says that a tensor is."""

_OTHER_KINDS = {
    "lokr_": "LoKr isn't a low-rank update",
    "hada_": "LoHa isn't a low-rank update",
    "oft_": "OFT isn't a low-rank update",
    "lora_mid": "LoCon's middle matrix is for convolutions",
    "set_weight": "a weight to be put in place of the model's own",
    "reshape_weight": "a change of the model's shapes",
}

# state_dict() of a model with PEFT adapters spells an adapter's name into the keys.
_ADAPTER_NAME = re.compile(
    r"\.(lora_A|lora_B|lora_magnitude_vector)\.(?!weight$|bias$)([^.]+)((?:\.weight|\.bias)?)$"
)


@dataclass(frozen=True)
class _Place:
    """What a key stands for: the file's format, the layer as it is spelled there, and the part of the update."""

    format: str
    path: str
    part: str


def check_format(name: str) -> None:
    """Raise UnknownNameError if there is no such format."""
    if name not in FORMATS:
        raise UnknownNameError(f"unknown LoRA format {name!r}", expected=f"one of {', '.join(FORMATS)}")


def from_tensors(
    tensors: Mapping[str, Tensor], config: AdapterConfig | None = None, source: str = "the LoRA"
) -> Lora:
    """A LoRA from the tensors of a file of any format.

    Args:
        tensors: By key; what can't be used isn't looked at, so that a mapping may load them when asked.
        config: PEFT's description, where the file has one.
        source: The file, for messages.

    Raises:
        CheckpointError: If no key is a LoRA of an LTX-Video transformer, two keys mean the same, or numbers aren't
            finite.
    """
    found = _sort(tensors, source)
    layers, differences = {}, {}
    for name, keys in found.parts.items():
        parts = {part: tensors[key] for part, key in keys.items()}
        built = _build(parts, tuple(keys.values()), config, found.paths[name])
        if isinstance(built, LoraLayer):
            layers[name] = built
        else:
            found.unmatched.update(dict.fromkeys(keys.values(), built))
    for name, key in found.differences.items():
        differences[name] = _floating(tensors[key])
    if not layers and not differences:
        examples = [f"{key} ({reason})" for key, reason in found.unmatched.items()]
        raise CheckpointError(
            f"{source} is no LoRA of an LTX-Video transformer", got="; ".join(examples[:3]) or "no tensors"
        )
    _check_finite(layers, differences, source)
    lora = Lora(layers, differences, found.unmatched, found.formats.most_common(1)[0][0])
    return _with_biases_in_layers(lora)


def to_tensors(lora: Lora, format: str) -> dict[str, Tensor]:
    """The tensors of a LoRA by the keys of a format.

    Raises:
        UnknownNameError: If there is no such format.
        InputError: If the format can't hold this LoRA.
    """
    check_format(format)
    if format in ("diffusers", "peft"):
        check_representable(lora)
        return _peft_tensors(lora, "transformer." if format == "diffusers" else "base_model.model.")
    return _comfy_tensors(lora, kohya=format == "kohya")


@dataclass
class _Found:
    """The keys of a file, sorted: by layer and part, by parameter, and those that can't be used, with why."""

    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    differences: dict[str, str] = field(default_factory=dict)
    unmatched: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)


def _sort(keys: Collection[str], source: str) -> _Found:
    adapters = {named[2] for key in keys if (named := _ADAPTER_NAME.search(key))}
    if len(adapters) > 1:
        raise CheckpointError(
            f"{source} holds several adapters", got=", ".join(sorted(adapters)), expected="one"
        )
    found = _Found()
    for key in keys:
        place = _place(_ADAPTER_NAME.sub(r".\1\3", key))
        if isinstance(place, str):
            found.unmatched[key] = place
            continue
        if place.part in ("difference", "bias difference"):
            name = find_parameter(place.path, is_bias=place.part == "bias difference")
            slots, slot = found.differences, name
        else:
            name = find_layer(place.path)
            slots, slot = ({} if name is None else found.parts.setdefault(name, {})), place.part
        if name is None:
            found.unmatched[key] = _no_such_layer(place.path)
            continue
        if slot in slots:
            raise CheckpointError(
                f"{source} has two tensors for one part of {name}", got=f"{slots[slot]}, {key}"
            )
        slots[slot] = key
        found.paths[name] = place.path
        found.formats[place.format] += 1
    return found


def _peft_tensors(lora: Lora, prefix: str) -> dict[str, Tensor]:
    has_bias = any(layer.bias is not None for layer in lora.layers.values())
    tensors = {}
    for name, layer in lora.layers.items():
        tensors[f"{prefix}{name}.lora_A.weight"] = layer.down
        tensors[f"{prefix}{name}.lora_B.weight"] = layer.up
        if layer.magnitude is not None:
            tensors[f"{prefix}{name}.lora_magnitude_vector"] = layer.magnitude
        if has_bias:  # PEFT's setting is one for all layers
            zeros = layer.up.new_zeros(layer.up.shape[0])
            tensors[f"{prefix}{name}.lora_B.bias"] = zeros if layer.bias is None else layer.bias
    return tensors


def _comfy_tensors(lora: Lora, kohya: bool) -> dict[str, Tensor]:
    def spell(name: str) -> str:
        path = official_name(name)
        return f"lora_unet_{path.replace('.', '_')}" if kohya else f"diffusion_model.{path}"

    down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    tensors = {}
    for name, layer in lora.layers.items():
        path = spell(name)
        tensors[f"{path}.{down}.weight"] = layer.down
        tensors[f"{path}.{up}.weight"] = layer.up
        tensors[f"{path}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
        if layer.magnitude is not None:
            tensors[f"{path}.dora_scale"] = layer.magnitude[:, None]
        if layer.bias is not None:
            tensors[f"{path}.diff_b"] = layer.bias_update().to(layer.bias.dtype)
    for name, difference in lora.differences.items():
        is_bias = name.endswith(".bias")
        path = spell(name.removesuffix(".bias").removesuffix(".weight"))
        tensors[f"{path}.diff_b" if is_bias else f"{path}.diff"] = difference
    return tensors


def _place(key: str) -> _Place | str:
    """What a key stands for, or why it can't be used."""
    if key.startswith(_TEXT_ENCODER):
        return "it is for a text encoder; LoRAs change the transformer only"
    prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), "")
    rest = key.removeprefix(prefix)
    end = next((end for end in _PARTS if rest.endswith(f".{end}")), None)
    if end is not None:
        return _Place(_PREFIXES.get(prefix, "diffusers"), rest.removesuffix(f".{end}"), _PARTS[end])
    last = rest.rpartition(".")[2]
    kind = next((reason for mark, reason in _OTHER_KINDS.items() if mark in rest), None)
    if kind is None and last in ("weight", "bias"):
        return "a copy of the model's own parameter, not an update"
    return kind or "an unknown kind of tensor"


def _no_such_layer(path: str) -> str:
    if "audio" in path or "av_ca" in path:
        return "a layer of LTX-2; LTX-Video has none like it"
    return "an LTX-Video transformer has no such layer"


def _build(
    parts: dict[str, Tensor], keys: tuple[str, ...], config: AdapterConfig | None, path: str
) -> LoraLayer | str:
    """A layer's update from its tensors, or why they can't be used."""
    down, up = parts.get("down"), parts.get("up")
    if down is None or up is None:
        return f"its other matrix ({'lora_A' if down is None else 'lora_B'}) is missing"
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or 0 in (*down.shape, *up.shape):
        return f"its matrices {tuple(up.shape)} and {tuple(down.shape)} have no product"
    if not all(tensor.is_floating_point() for part, tensor in parts.items() if part != "alpha"):
        return "its numbers aren't floating-point numbers"
    rank = down.shape[0]
    alpha = parts.get("alpha")
    if alpha is not None:
        if alpha.numel() != 1:
            return f"its alpha isn't one number but {tuple(alpha.shape)}"
        alpha = float(alpha)
    elif config is not None:
        alpha = config.alpha_of(path, rank)
    magnitude, bias = parts.get("magnitude"), parts.get("bias")
    if magnitude is not None:
        if magnitude.shape not in ((up.shape[0],), (up.shape[0], 1)):
            return f"its DoRA magnitude {tuple(magnitude.shape)} isn't one number per output ({up.shape[0]})"
        if bias is not None:
            return "DoRA with a bias of its own isn't defined"
        magnitude = _floating(magnitude.reshape(-1))
    if bias is not None and bias.shape != (up.shape[0],):
        return f"its bias {tuple(bias.shape)} isn't one number per output ({up.shape[0]})"
    return LoraLayer(
        _floating(down),
        _floating(up),
        float(rank) if alpha is None else alpha,
        magnitude,
        None if bias is None else _floating(bias),
        keys,
    )


def _check_finite(layers: Mapping[str, LoraLayer], differences: Mapping[str, Tensor], source: str) -> None:
    for name, layer in layers.items():
        if not (math.isfinite(layer.alpha) and all(torch.isfinite(tensor).all() for tensor in layer.tensors)):
            raise CheckpointError(f"{source} is damaged: NaN or infinite numbers", got=name)
    for name, difference in differences.items():
        if not torch.isfinite(difference).all():
            raise CheckpointError(f"{source} is damaged: NaN or infinite numbers", got=name)


def _floating(tensor: Tensor) -> Tensor:
    """8-bit numbers as bfloat16, which holds them exactly and can be computed with."""
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() and tensor.dtype.itemsize == 1 else tensor


def _with_biases_in_layers(lora: Lora) -> Lora:
    """Differences of biases whose layer has an update, as that update's bias: the form that PEFT can hold too."""
    layers, differences = dict(lora.layers), dict(lora.differences)
    for name, layer in lora.layers.items():
        bias = differences.get(f"{name}.bias")
        usable = bias is not None and layer.bias is None and layer.magnitude is None and layer.scale != 0
        if usable and bias.shape == (layer.shape[0],):
            layers[name] = replace(
                layer, bias=(differences.pop(f"{name}.bias").float() / layer.scale).to(bias.dtype)
            )
    return replace(lora, layers=layers, differences=differences)
