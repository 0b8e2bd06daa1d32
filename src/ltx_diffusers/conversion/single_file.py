"""`from_single_file` of our models; see `models.single_file.SingleFileMixin`.

The model is built without memory, and each tensor is put into it as it is read: memory holds the model and one tensor.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks._common import _GO_LC_SUPPORTED_PYTORCH_LAYERS as SUPPORTED_PYTORCH_LAYERS
from diffusers.models.model_loading_utils import load_model_dict_into_meta
from diffusers.models.modeling_utils import ModelMixin
from diffusers.quantizers import DiffusersAutoQuantizer
from diffusers.quantizers.quantization_config import GGUFQuantizationConfig

from ..errors import CheckpointError, InputError
from ..models.single_file import single_file_loaders
from .describe import Checkpoint, describe
from .gguf import GGUFFile
from .hub_files import find_file
from .loading import iterate_part, part_dtype
from .model_classes import MODEL_CLASSES, build_empty
from .parts import FP8_DTYPES, Part
from .tensors import TensorSource, open_tensors

logger = logging.getLogger(__name__)

FP8_MODES = ("dequantize", "keep")
_CHUNK_BYTES = 2**29


@single_file_loaders.register("checkpoint")
def load_model(
    cls: type[ModelMixin],
    path: str | Path,
    *,
    version: str | None = None,
    dtype: torch.dtype | None = None,
    fp8: str = "dequantize",
    quantization_config: Any = None,
    device: str | torch.device | None = None,
    allow_pickle: bool = False,
    **hub: Any,
) -> ModelMixin:
    """Load one of our models from a checkpoint; arguments and errors as in `SingleFileMixin.from_single_file`."""
    check_options(fp8, quantization_config)
    file = find_file(path, **hub)
    with open_tensors(file, allow_pickle=allow_pickle) as source:
        # A VAE or an upsampler is the same in all releases that fit its tensors; only a transformer needs the rest.
        kinds = [kind for kind, known in MODEL_CLASSES.items() if issubclass(cls, known)]
        needs_release = "transformer" in kinds
        checkpoint = describe(source, version=version, undecided_ok=not needs_release)
        part = _own_part(checkpoint, kinds, cls)
        return load_described(cls, checkpoint, source, part, dtype, fp8, quantization_config, device)


def check_options(fp8: str, quantization_config: Any) -> None:
    """Check what can be checked of a call before its file is opened.

    Raises:
        InputError: If the treatment of fp8 weights is unknown, or doesn't go with a quantisation.
    """
    if fp8 not in FP8_MODES:
        raise InputError("unknown treatment of fp8 weights", got=repr(fp8), expected=f"one of {FP8_MODES}")
    if fp8 == "keep" and quantization_config is not None:
        raise InputError("fp8='keep' and a quantization_config exclude each other")


def load_described(
    cls: type[ModelMixin],
    checkpoint: Checkpoint,
    source: TensorSource,
    part: Part,
    dtype: torch.dtype | None = None,
    fp8: str = "dequantize",
    quantization_config: Any = None,
    device: str | torch.device | None = None,
) -> ModelMixin:
    """Load one part of a checkpoint that is already described.

    Raises:
        CheckpointError: If it can't be read, or has tensors that the model doesn't know: without them, the model
            would be another.
        InputError: If fp8 weights can't be kept.
    """
    if part.unexpected:
        raise CheckpointError(
            f"{source.path} has tensors that the {part.kind.replace('_', ' ')} of its config doesn't have",
            got=f"{len(part.unexpected)}: {', '.join(part.unexpected[:3])}",
            fix="the file may be of another version than it says, or of another model",
        )
    kept = _kept_in_fp8(part, source) if fp8 == "keep" else []
    warn_about_rotation(part, source)
    model = build_empty(part.kind, part.config, cls)
    compute = dtype or part_dtype(part, source)
    if quantization_config is not None:
        _load_quantized(model, part, source, dtype, quantization_config, device)
    else:
        for name, tensor in iterate_part(part, source, compute, as_stored=set(kept)):
            _assign(model, name, tensor.to(device) if device is not None else tensor)
    model.register_to_config(_name_or_path=str(checkpoint.path))
    model.eval()
    if kept:
        _cast_by_layer(model, kept, source.info(part.names[kept[0]]).dtype, compute)
    return model


def warn_about_rotation(part: Part, source: TensorSource) -> None:
    """Warn of fp8 files that may be stored for Lightricks' kernels.

    The kernels multiply inputs with a Hadamard matrix, and Lightricks' own "-fp8" files are reported to give noise
    when their weights are used without them (ComfyUI-LTXVideo issue 186, LTX-Video issue 173). A file doesn't say so:
    what they have in common is fp8 in linear layers of blocks only, without scales.
    """
    if part.kind != "transformer" or part.scales:
        return
    fp8 = [name for name, stored in part.names.items() if source.info(stored).dtype in FP8_DTYPES]
    if fp8 and all(name.startswith("transformer_blocks.") and name.endswith(".weight") for name in fp8):
        logger.warning(
            "%s has fp8 weights without scales in its blocks only. They are taken as plain fp8 numbers. If the file is "
            "one of Lightricks' own -fp8 releases, made for its Q8 kernels, videos will be noise: use the bf16 file.",
            source.path,
        )


def _own_part(checkpoint: Checkpoint, kinds: list[str], cls: type) -> Part:
    for kind in kinds:
        if kind in checkpoint.parts:
            return checkpoint.parts[kind]
    raise CheckpointError(
        f"{checkpoint.path} has nothing for {cls.__name__}",
        got=f"only {', '.join(checkpoint.parts)}",
        expected=" or ".join(kinds).replace("_", " "),
    )


def _assign(model: ModelMixin, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor into a model on the meta device."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._parameters:
        old = module._parameters[leaf]
        module._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=old.requires_grad)
    else:
        module._buffers[leaf] = tensor


def _kept_in_fp8(part: Part, source: TensorSource) -> list[str]:
    """Weights that stay in fp8: matrices and kernels of layers that layerwise casting knows."""
    if part.scales:
        raise InputError(
            f"{source.path} has scales with its fp8 weights, which layerwise casting can't apply",
            fix="use fp8='dequantize'",
        )
    if isinstance(source, GGUFFile):
        raise InputError(
            f"{source.path} is a GGUF file", fix="use quantization_config=GGUFQuantizationConfig(...)"
        )
    kept = [
        name
        for name, stored in part.names.items()
        if source.info(stored).dtype in FP8_DTYPES
        and name.endswith(".weight")
        and len(source.info(stored).shape) > 1
    ]
    kinds = {source.info(part.names[name]).dtype for name in kept}
    if len(kinds) != 1:
        what = "more than one kind of fp8 weights" if kinds else "no fp8 weights to keep"
        raise InputError(f"{source.path} has {what}", fix="leave fp8='keep' out")
    return kept


def _cast_by_layer(model: ModelMixin, kept: list[str], storage: torch.dtype, compute: torch.dtype) -> None:
    """Let Diffusers hold the layers with fp8 weights in fp8, and those only."""
    layers = {name.removesuffix(".weight") for name in kept}
    others = [
        re.escape(name)
        for name, module in model.named_modules()
        if name not in layers and isinstance(module, SUPPORTED_PYTORCH_LAYERS)
    ]
    model.enable_layerwise_casting(
        storage_dtype=storage,
        compute_dtype=compute,
        skip_modules_pattern=(f"^(?:{'|'.join(others)})$",) if others else (),
    )


def _load_quantized(
    model: ModelMixin,
    part: Part,
    source: TensorSource,
    dtype: torch.dtype | None,
    quantization_config: Any,
    device: str | torch.device | None,
) -> None:
    """Load through one of Diffusers' quantisers, chunk by chunk; GGUF files keep their blocks with its GGUF one."""
    from_gguf = isinstance(quantization_config, GGUFQuantizationConfig)
    if from_gguf and not isinstance(source, GGUFFile):
        raise InputError(
            f"{source.path} isn't quantised as the quantization_config says",
            got=type(quantization_config).__name__,
        )
    if isinstance(source, GGUFFile) and not from_gguf:
        logger.warning("%s is dequantised and then quantised anew", source.path)
    quantizer = DiffusersAutoQuantizer.from_config(quantization_config, pre_quantized=False)
    quantizer.validate_environment()
    # GGUF's quantiser has a precision of its own; the others take the file's.
    dtype = quantizer.update_torch_dtype(dtype if dtype or from_gguf else part_dtype(part, source))
    blocks = _gguf_blocks(model, part, source) if from_gguf else {}
    quantizer.preprocess_model(model=model, device_map=None, state_dict=blocks, keep_in_fp32_modules=[])
    target = {"": torch.device(device) if device is not None else torch.device("cpu")}

    def put(chunk: dict[str, torch.Tensor]) -> None:
        load_model_dict_into_meta(model, chunk, dtype=dtype, device_map=target, hf_quantizer=quantizer)

    put(blocks)
    rest = replace(part, names={name: stored for name, stored in part.names.items() if name not in blocks})
    chunk: dict[str, torch.Tensor] = {}
    for name, tensor in iterate_part(rest, source, dtype):
        chunk[name] = tensor
        if sum(tensor.nbytes for tensor in chunk.values()) > _CHUNK_BYTES:
            put(chunk)
            chunk = {}
    put(chunk)
    quantizer.postprocess_model(model)
    model.hf_quantizer = quantizer


def _gguf_blocks(model: ModelMixin, part: Part, source: GGUFFile) -> dict[str, torch.Tensor]:
    """The quantised weights of linear layers, as Diffusers' GGUF parameters."""
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFParameter

    linear = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    blocks = {}
    for name in part.names:
        kind = source.quantization(part.names[name])
        if name in linear and kind.name not in ("F32", "F16", "BF16"):
            data = source.load_quantized(part.names[name])
            blocks[name] = GGUFParameter(data, quant_type=gguf.GGMLQuantizationType(kind.number))
    return blocks
