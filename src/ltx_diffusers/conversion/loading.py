"""Tensors of one part of a checkpoint, under our names, one by one.

Official and ComfyUI's fp8 files are read too. A tensor in fp8 is dequantised to the wanted precision, and multiplied
with its scale where there is one. This costs twice the memory of the fp8 file; nothing is lost, for every fp8 value is
exact in the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch

from ..errors import CheckpointError
from .describe import Checkpoint
from .parts import FP8_DTYPES, Part
from .tensors import TensorSource

DEFAULT_DTYPE = torch.bfloat16
"""Precision of weights that were stored quantised, unless another is asked for."""


def load_part(
    checkpoint: Checkpoint, source: TensorSource, kind: str, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """The state dict of one of our models, read tensor by tensor.

    Args:
        checkpoint: What `describe` said of `source`.
        source: The opened file.
        kind: Which of its parts.
        dtype: Precision of all tensors. None: `part_dtype`.

    Raises:
        CheckpointError: If the file lacks that part, or can't be read.
    """
    part = checkpoint.part(kind)
    dtype = dtype or part_dtype(part, source)
    return dict(iterate_part(part, source, dtype))


def iterate_part(
    part: Part, source: TensorSource, dtype: torch.dtype, as_stored: Collection[str] = ()
) -> Iterator[tuple[str, torch.Tensor]]:
    """Our name and the tensor in `dtype`, for all tensors of a part, in the order of the file.

    Args:
        part: The part.
        source: The opened file.
        dtype: Precision of the tensors.
        as_stored: Names of those that are given in the precision of the file.

    Raises:
        CheckpointError: If the file can't be read.
    """
    for name, stored in part.names.items():
        if name in as_stored:
            yield name, source.load(stored)
        else:
            yield name, load_tensor(part, source, name, dtype)
    if part.kind == "vae" and "latents_mean" not in part.names:  # official files leave a mean of 0 out
        yield "latents_mean", torch.zeros(source.info(part.names["latents_std"]).shape, dtype=dtype)


def load_tensor(part: Part, source: TensorSource, name: str, dtype: torch.dtype) -> torch.Tensor:
    """One tensor of a part, by our name, dequantised if it is stored in fp8.

    Raises:
        CheckpointError: If the part has no such tensor, or it can't be read.
    """
    if name not in part.names:
        raise CheckpointError(f"{source.path} has no tensor {name} of the {part.kind.replace('_', ' ')}")
    tensor = source.load(part.names[name])
    if name in part.scales:
        scale = source.load(part.scales[name]).float().flatten()
        scale = scale.reshape(-1, *(1,) * (tensor.ndim - 1)) if scale.numel() > 1 else scale.squeeze()
        tensor = tensor.float() * scale
    return tensor.to(dtype)


def part_dtype(part: Part, source: TensorSource) -> torch.dtype:
    """The precision that a part is loaded in unless another is asked for.

    That of most of its values; bfloat16 if they are stored in fp8 or quantised.
    """
    counts: dict[torch.dtype, int] = {}
    for name in part.names.values():
        info = source.info(name)
        counts[info.dtype] = counts.get(info.dtype, 0) + info.nbytes
    most = max(counts, key=counts.get)
    return DEFAULT_DTYPE if most in FP8_DTYPES or source.path.suffix.lower() == ".gguf" else most
