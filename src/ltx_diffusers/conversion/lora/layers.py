"""A LoRA in memory, whatever file it came from, and what it does to a weight.

The update of a linear layer is W + s B A, with s = alpha / r (Hu et al. 2021, section 4.1). DoRA (Liu et al. 2024,
section 4) then gives each output its own length: m (W + s B A) / |W + s B A|, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """In the dtype in which updates are computed: float32, or float64 if it is in that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """The update of one linear layer.

    Attributes:
        down: A (r, in).
        up: B (out, r).
        alpha: The update is scaled by alpha / r.
        magnitude: m (out,) of DoRA, or None.
        bias: Bias of `up` (out,), scaled like the update, or None.
        keys: The keys that it was read from.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None
    bias: Tensor | None = None
    keys: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight that it changes."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def scale(self) -> float:
        """s = alpha / r."""
        return self.alpha / self.rank

    @property
    def num_parameters(self) -> int:
        """Numbers in its tensors."""
        return sum(tensor.numel() for tensor in self.tensors)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Its tensors."""
        parts = (self.down, self.up, self.magnitude, self.bias)
        return tuple(tensor for tensor in parts if tensor is not None)

    @cached_property
    def norm(self) -> float:
        """Frobenius norm of s B A, without DoRA and without forming the product.

        |B A|^2 = trace(A^T B^T B A) = sum of (B^T B) * (A A^T), in float64 because large terms may cancel.
        """
        down, up = self.down.double(), self.up.double()
        squared = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0)
        return abs(self.scale) * squared.sqrt().item()

    def product(self) -> Tensor:
        """s B A (out, in) in float32."""
        return self.scale * (self.up.float() @ self.down.float())

    def applied(self, weight: Tensor, strength: float = 1.0, original: Tensor | None = None) -> Tensor:
        """The layer's weight with this update, (out, in) in float32 (float64 stays).

        Args:
            weight: The weight (out, in), to which other updates may have been applied before.
            strength: As `set_adapters` takes it: the low-rank part is scaled by it, with DoRA before the division.
            original: The weight without other updates, whose changed rows DoRA measures; `weight` if None.
        """
        product = strength * self.product()
        changed = widened(weight) + product
        if self.magnitude is None:
            return changed
        measured = changed if original is None else widened(original) + product
        return changed * (self.magnitude.float() / measured.norm(dim=1))[:, None]

    def bias_update(self, strength: float = 1.0) -> Tensor:
        """What is added to the layer's bias, (out,) in float32; only where `bias` is given."""
        return strength * self.scale * self.bias.float()

    def to(self, dtype: torch.dtype) -> LoraLayer:
        """The same with tensors of another dtype."""
        cast = {
            name: None if getattr(self, name) is None else getattr(self, name).to(dtype)
            for name in ("down", "up", "magnitude", "bias")
        }
        return replace(self, **cast)


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA of an LTX-Video transformer.

    Attributes:
        layers: Updates by the name of the layer in our transformer.
        differences: Full differences by parameter name, as ComfyUI's `.diff` and `.diff_b` hold them. No adapter can
            hold these; merging can.
        unmatched: What in its file couldn't be used: key and reason.
        format: Name of the format that it was read from, in `formats.FORMATS`.
        metadata: Remarks of its file, such as what it was trained on; written along.
    """

    layers: Mapping[str, LoraLayer]
    differences: Mapping[str, Tensor] = field(default_factory=dict)
    unmatched: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_parameters(self) -> int:
        """Numbers in its tensors."""
        return sum(layer.num_parameters for layer in self.layers.values()) + sum(
            difference.numel() for difference in self.differences.values()
        )

    @property
    def dtypes(self) -> list[torch.dtype]:
        """Dtypes of its tensors."""
        tensors = [tensor for layer in self.layers.values() for tensor in layer.tensors]
        return sorted({tensor.dtype for tensor in [*tensors, *self.differences.values()]}, key=str)

    @property
    def uses_dora(self) -> bool:
        """Whether any layer has DoRA's magnitudes."""
        return any(layer.magnitude is not None for layer in self.layers.values())

    def to(self, dtype: torch.dtype) -> Lora:
        """The same with tensors of another dtype."""
        return replace(
            self,
            layers={name: layer.to(dtype) for name, layer in self.layers.items()},
            differences={name: tensor.to(dtype) for name, tensor in self.differences.items()},
        )
