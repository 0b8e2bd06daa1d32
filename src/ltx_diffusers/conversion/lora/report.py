"""What a LoRA does to a transformer: which keys fit, which don't and why, and how much changes in each block.

The size of a change is the Frobenius norm of what is added to the weights, alpha included.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ...errors import InputError
from .layers import Lora, LoraLayer, widened
from .names import block_of, block_order

Weights = Callable[[str], Tensor]
"""Gives a parameter of the model by its name."""


@dataclass(frozen=True)
class LoraReport:
    """What was found in a LoRA, against a model or on its own.

    Attributes:
        format: The format that it was read from.
        matched: Keys that are used; names of layers and parameters where there was no file.
        unmatched: Keys that aren't, and why.
        norms: Norm of the change of each block ("transformer_blocks.0", ..., "outside the blocks").
        relative: The same over the norm of the weights that are changed; None if these weren't given.
        ranks: How many layers have which rank.
        scales: How many layers have which alpha / rank.
        num_parameters: Numbers in its tensors.
        dtypes: Dtypes of its tensors.
        uses_dora: Whether it has DoRA's magnitudes. Norms then need the model's weights; without these they are
            those of the low-rank part alone.
    """

    format: str | None
    matched: tuple[str, ...]
    unmatched: Mapping[str, str]
    norms: Mapping[str, float]
    relative: Mapping[str, float] | None
    ranks: Mapping[int, int]
    scales: Mapping[float, int]
    num_parameters: int
    dtypes: tuple[str, ...]
    uses_dora: bool

    @property
    def norm(self) -> float:
        """Norm of the whole change."""
        return math.hypot(*self.norms.values())

    def reasons(self) -> dict[str, list[str]]:
        """Unmatched keys by reason."""
        found = defaultdict(list)
        for key, reason in self.unmatched.items():
            found[reason].append(key)
        return dict(found)

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} keys used, {len(self.unmatched)} not; change of norm {self.norm:.4g}"]
        for reason, keys in self.reasons().items():
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            lines.append(f"not used: {keys[0]}{more}: {reason}")
        return "\n".join(lines)


def fitted(lora: Lora, shapes: Mapping[str, tuple[int, ...]], *, differences: bool) -> Lora:
    """The part of a LoRA that fits a model; the rest is listed as unmatched, with why.

    Args:
        lora: The LoRA.
        shapes: Shapes of the model's parameters by name.
        differences: Whether full differences can be used.
    """
    unmatched = dict(lora.unmatched)
    layers, kept = {}, {}
    for name, layer in lora.layers.items():
        reason = _misfit(shapes.get(f"{name}.weight"), layer.shape)
        if reason is None:
            layers[name] = layer
        else:
            unmatched |= dict.fromkeys(layer.keys or (name,), reason)
    for name, difference in lora.differences.items():
        reason = _misfit(shapes.get(name), tuple(difference.shape))
        if reason is None and not differences:
            reason = "a full difference, which no adapter can hold; merge it (ltx-diffusers lora merge)"
        if reason is None:
            kept[name] = difference
        else:
            unmatched[name] = reason
    return replace(lora, layers=layers, differences=kept, unmatched=unmatched)


def describe_lora(lora: Lora, weights: Weights | None = None) -> LoraReport:
    """What a LoRA does.

    Args:
        lora: The LoRA; fitted to a model or not.
        weights: The model's parameters; one is asked for at a time.
    """
    squares: dict[str, float] = defaultdict(float)
    of_weights: dict[str, float] = defaultdict(float)
    for name, layer in lora.layers.items():
        weight = None if weights is None else weights(f"{name}.weight")
        squares[block_of(name)] += _squared_change(layer, weight)
        if weight is not None:
            of_weights[block_of(name)] += weight.float().norm().item() ** 2
    for name, difference in lora.differences.items():
        squares[block_of(name)] += difference.float().norm().item() ** 2
        if weights is not None:
            of_weights[block_of(name)] += weights(name).float().norm().item() ** 2
    blocks = sorted(squares, key=block_order)
    return LoraReport(
        format=lora.format,
        matched=tuple(key for name, layer in lora.layers.items() for key in layer.keys or (name,))
        + tuple(lora.differences),
        unmatched=dict(lora.unmatched),
        norms={block: math.sqrt(squares[block]) for block in blocks},
        relative=None
        if weights is None
        else {block: math.sqrt(squares[block] / of_weights[block]) for block in blocks if of_weights[block]},
        ranks=dict(Counter(layer.rank for layer in lora.layers.values())),
        scales=dict(Counter(round(layer.scale, 6) for layer in lora.layers.values())),
        num_parameters=lora.num_parameters,
        dtypes=tuple(str(dtype).removeprefix("torch.") for dtype in lora.dtypes),
        uses_dora=lora.uses_dora,
    )


def check_effect(report: LoraReport, source: str = "this LoRA") -> None:
    """Refuse a LoRA that changes nothing.

    DoRA may change lengths where the low-rank part is zero, so it is judged only by a report with weights.

    Raises:
        InputError: If nothing matches, or every update is zero.
    """
    why = "; ".join(f"{keys[0]}: {reason}" for reason, keys in list(report.reasons().items())[:3])
    if not report.matched:
        raise InputError(
            f"{source} would have no effect: none of its keys fits the model", got=why or "no keys"
        )
    judged = not report.uses_dora or report.relative is not None
    if judged and report.norm == 0:
        raise InputError(
            f"{source} would have no effect: every update is zero",
            got=f"scales {', '.join(f'{scale:g}' for scale in report.scales)}" if report.scales else None,
            fix="was it saved before it was trained, or with alpha 0?",
        )


def _squared_change(layer: LoraLayer, weight: Tensor | None) -> float:
    if layer.magnitude is not None and weight is not None:
        return (layer.applied(weight) - widened(weight)).norm().item() ** 2
    of_bias = 0.0 if layer.bias is None else layer.bias_update().norm().item() ** 2
    return layer.norm**2 + of_bias


def _misfit(shape: tuple[int, ...] | None, wanted: tuple[int, ...]) -> str | None:
    if shape is None:
        return "the model has no such layer"
    if tuple(shape) != tuple(wanted):
        return f"made for a weight of shape {tuple(wanted)}, the model's is {tuple(shape)}"
    return None
