"""The difference of two checkpoints as a LoRA: the best product of low rank for each weight, and how good that is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, InputError
from .checkpoints import OpenTransformer, open_transformer
from .layers import Lora, LoraLayer
from .names import block_of, block_order, find_layer

_SAMPLES_BEYOND_RANK = 16
_POWER_ITERATIONS = 4
_EXACT_SIZE = 512
"""Weights with a side up to this, or of less than four times the rank, are decomposed exactly."""


@dataclass(frozen=True)
class ExtractReport:
    """How much of a difference a LoRA holds. Norms are Frobenius norms; the LoRA is judged as it will be stored.

    Attributes:
        errors: By block: norm of what the LoRA lacks over the norm of the difference of the layers' weights.
        error: The same over all these weights.
        norm: Norm of the difference of these weights.
        left_out: Norms of differences that aren't in the LoRA at all, by parameter: biases, norms, tables.
    """

    errors: Mapping[str, float]
    error: float
    norm: float
    left_out: Mapping[str, float] = field(default_factory=dict)


def extract_lora(
    base: str | Path,
    tuned: str | Path,
    *,
    rank: int = 32,
    dtype: torch.dtype = torch.bfloat16,
    differences: bool = False,
    seed: int = 0,
    progress: Callable[[], object] | None = None,
    begin: Callable[[int], object] | None = None,
) -> tuple[Lora, ExtractReport]:
    """Extract what `tuned` has over `base`.

    Each weight's difference is cut after `rank` singular values, or where they vanish. Large weights go through a
    randomised decomposition (Halko, Martinsson, Tropp 2011, algorithm 4.4), whose error is measured, not estimated.

    Args:
        base: The original checkpoint: a single file, the transformer's folder or a pipeline's, in any layout.
        tuned: The changed one, of the same size; its layout may be another.
        rank: The largest rank of a layer.
        dtype: Of the LoRA's matrices.
        differences: Keep what low rank can't hold, that is biases, norms and tables, as full differences. Only the
            formats "comfy" and "kohya" can store them.
        seed: Of the random projections.
        progress: Called after each parameter.
        begin: Called once with the number of parameters, when everything is checked.

    Returns:
        The LoRA, with alpha = rank in every layer, and its errors.

    Raises:
        CheckpointError: If a checkpoint can't be used, or they aren't of one size.
        InputError: If the rank isn't positive, or there is nothing to extract.
    """
    if rank < 1:
        raise InputError("the rank must be positive", got=rank)
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise InputError("a LoRA is stored as float32, bfloat16 or float16", got=dtype)
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, LoraLayer] = {}
    full: dict[str, Tensor] = {}
    rest: dict[str, float] = {}
    squares: dict[str, float] = defaultdict(float)
    missed: dict[str, float] = defaultdict(float)
    with open_transformer(base) as first, open_transformer(tuned) as second:
        names = _common_names(first, second)
        if begin is not None:
            begin(len(names))
        for name in names:
            difference = second.load(name).float() - first.load(name).float()
            _check_finite(name, difference)
            norm = difference.norm().item()
            layer = name.removesuffix(".weight")
            if norm and difference.ndim == 2 and find_layer(layer):
                found = low_rank(difference, rank, dtype, generator)
                layers[layer] = found
                squares[block_of(name)] += norm**2
                missed[block_of(name)] += difference.sub_(found.product()).norm().item() ** 2
            elif norm and differences:
                full[name] = difference.to(dtype)
            elif norm:
                rest[name] = norm
            if progress is not None:
                progress()
    if not layers and not full:
        raise InputError(
            "the checkpoints don't differ in what a LoRA can hold",
            got=f"differences in {', '.join(list(rest)[:3])} only" if rest else "two equal transformers",
        )
    blocks = sorted(squares, key=block_order)
    total = sum(squares.values())
    return Lora(layers, differences=full), ExtractReport(
        errors={block: math.sqrt(missed[block] / squares[block]) for block in blocks},
        error=math.sqrt(sum(missed.values()) / total) if total else 0.0,
        norm=math.sqrt(total),
        left_out=rest,
    )


def low_rank(
    matrix: Tensor, rank: int, dtype: torch.dtype = torch.float32, generator: torch.Generator | None = None
) -> LoraLayer:
    """The product of a rank that is nearest to a matrix (Eckart and Young 1936), or nearly so for large ones.

    Args:
        matrix: (out, in), float32, not zero.
        rank: The largest rank.
        dtype: Of the two matrices; both get the square root of the singular values.
        generator: For the random projection of large matrices.
    """
    side = min(matrix.shape)
    exact = side <= _EXACT_SIZE or side < 4 * rank
    left, values, right = (
        torch.linalg.svd(matrix, full_matrices=False) if exact else _randomised_svd(matrix, rank, generator)
    )
    vanishing = values[0] * max(matrix.shape) * torch.finfo(matrix.dtype).eps
    kept = min(rank, int((values > vanishing).sum()))
    root = values[:kept].sqrt()
    up, down = left[:, :kept] * root, root[:, None] * right[:kept]
    return LoraLayer(down.to(dtype).contiguous(), up.to(dtype).contiguous(), alpha=float(kept))


def _randomised_svd(
    matrix: Tensor, rank: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values from the range of random products, sharpened by power iterations."""
    samples = torch.randn(matrix.shape[1], rank + _SAMPLES_BEYOND_RANK, generator=generator)
    basis = torch.linalg.qr(matrix @ samples).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix.T @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left, values, right


def _common_names(first: OpenTransformer, second: OpenTransformer) -> list[str]:
    """Parameters of both; in the order of the first."""
    shapes, others = first.shapes, second.shapes
    if shapes.keys() != others.keys() or any(shapes[name] != others[name] for name in shapes):
        name = next((name for name in {**shapes, **others} if shapes.get(name) != others.get(name)), None)
        raise CheckpointError(
            f"{second.source.path} isn't a change of {first.source.path}: their {name} differ in shape",
            got=others.get(name, "none"),
            expected=shapes.get(name, "none"),
        )
    return list(shapes)


def _check_finite(name: str, difference: Tensor) -> None:
    if not torch.isfinite(difference).all():
        raise CheckpointError("a checkpoint has NaN or infinite numbers", got=name)
