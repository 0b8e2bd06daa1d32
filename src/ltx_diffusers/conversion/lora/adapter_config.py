"""PEFT's description of an adapter, in `adapter_config.json` or in a Diffusers file's metadata, both ways.

Ranks are in the tensors; what only the description knows is alpha, for all layers or by pattern.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...errors import CheckpointError, InputError
from .layers import Lora

_OTHER_MATHS = {
    "fan_in_fan_out": "its matrices are transposed",
    "use_qalora": "QA-LoRA pools the layers' inputs",
    "use_bdlora": "its matrices are block-diagonal",
    "alora_invocation_tokens": "activated LoRA depends on tokens",
    "arrow_config": "Arrow routes tokens between adapters",
    "kasa_config": "KaSA changes the model's own weights",
    "monteclora_config": "MonteCLoRA samples its weights",
    "velora_config": "VeLoRA isn't a plain low-rank update",
    "layer_replication": "it repeats the model's layers",
}
"""Settings under which an adapter isn't the update that `layers.LoraLayer` describes."""

_CHANGES_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of init_lora_weights that change the model's own weights; these aren't in the adapter's file."""

_MAX_PATTERN = 256
_MAX_QUANTIFIERS = 4


class AdapterConfig:
    """What a PEFT description says about the scale of an adapter's layers.

    Args:
        settings: The fields of PEFT's LoraConfig.
        source: Where they were, for messages.

    Raises:
        CheckpointError: If the adapter isn't a plain LoRA or DoRA, or a field is malformed.
    """

    def __init__(self, settings: Mapping[str, Any], source: str) -> None:
        self.source = source
        self._check_kind(settings)
        self._rslora = bool(settings.get("use_rslora"))
        self._alpha = settings.get("lora_alpha")
        if self._alpha is not None:
            self._alpha = self._number("lora_alpha", self._alpha)
        self._rank = settings.get("r")
        self._alphas = self._patterns("alpha_pattern", settings.get("alpha_pattern"))
        self._ranks = self._patterns("rank_pattern", settings.get("rank_pattern"))

    def alpha_of(self, path: str, rank: int) -> float | None:
        """A layer's alpha, so that alpha / rank is its scale; None if the description doesn't say.

        Args:
            path: The layer as its file spells it, without prefix.
            rank: Its rank, from the tensors.

        Raises:
            CheckpointError: If the description gives another rank.
        """
        stated = _by_pattern(self._ranks, path, self._rank)
        if stated is not None and stated != rank:
            raise CheckpointError(
                f"{self.source} doesn't fit its tensors: the rank of {path}", got=stated, expected=rank
            )
        alpha = _by_pattern(self._alphas, path, self._alpha)
        # Rank-stabilised LoRA (Kalajdzievski 2023) scales by alpha / sqrt(r).
        return alpha * math.sqrt(rank) if self._rslora and alpha is not None else alpha

    def _check_kind(self, settings: Mapping[str, Any]) -> None:
        kind = settings.get("peft_type") or "LORA"
        if str(kind).rpartition(".")[2].upper() != "LORA":
            raise CheckpointError(
                f"{self.source} describes another kind of adapter", got=kind, expected="LORA"
            )
        for name, reason in _OTHER_MATHS.items():
            if settings.get(name):
                raise CheckpointError(f"{self.source} has {name}, which isn't supported: {reason}")
        start = str(settings.get("init_lora_weights"))
        if start.startswith(_CHANGES_WEIGHTS):
            raise CheckpointError(
                f"this adapter needs a model whose weights {start} changed when training began",
                fix="save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA",
            )

    def _number(self, name: str, value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise CheckpointError(f"{name} in {self.source} isn't a number", got=repr(value)[:80])
        return float(value)

    def _patterns(self, name: str, patterns: object) -> list[tuple[re.Pattern, float]]:
        """PEFT's patterns: regular expressions for the end of a layer's name, from a dot on."""
        if patterns is not None and not isinstance(patterns, dict):
            raise CheckpointError(f"{name} in {self.source} isn't a mapping", got=repr(patterns)[:80])
        found = []
        for pattern, value in (patterns or {}).items():
            try:
                compiled = re.compile(rf"(.*\.)?({pattern})$") if _is_harmless(pattern) else None
            except re.error:
                compiled = None
            if compiled is None:
                raise CheckpointError(
                    f"{name} in {self.source} has an unusable pattern", got=repr(pattern)[:80]
                )
            found.append((compiled, self._number(name, value)))
        return found


def peft_settings(lora: Lora) -> dict[str, Any]:
    """The fields of a LoraConfig for `lora`, those only that differ from PEFT's defaults or are needed.

    The most common rank and alpha stand for all layers, patterns for the rest. Names are full, and none is the end of
    another, so that they are safe as patterns.

    Raises:
        InputError: If PEFT has no adapter for it: no layers, full differences, or DoRA on a part of the layers.
    """
    check_representable(lora)
    ranks = {name: layer.rank for name, layer in lora.layers.items()}
    alphas = {name: _whole(layer.alpha) for name, layer in lora.layers.items()}
    rank, alpha = _most_common(ranks), _most_common(alphas)
    settings: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(lora.layers),
    }
    if lora.uses_dora:
        settings["use_dora"] = True
    if any(layer.bias is not None for layer in lora.layers.values()):
        settings["lora_bias"] = True
    return settings


def check_representable(lora: Lora) -> None:
    """Raise InputError if no PEFT adapter can hold `lora`."""
    if not lora.layers and not lora.differences:
        raise InputError("this LoRA changes no layer")
    fix = 'write it as "comfy" or "kohya", or merge it into a checkpoint'
    if lora.differences:
        raise InputError(
            "PEFT adapters can't hold full differences of parameters",
            got=f"{len(lora.differences)}, such as {next(iter(lora.differences))}",
            fix=fix,
        )
    plain = [name for name, layer in lora.layers.items() if layer.magnitude is None]
    if lora.uses_dora and plain:
        raise InputError(
            "PEFT adapters have DoRA on all layers or on none", got=f"none on {plain[0]}", fix=fix
        )


def _by_pattern(patterns: list[tuple[re.Pattern, float]], path: str, default: float | None) -> float | None:
    return next((value for pattern, value in patterns if pattern.match(path)), default)


def _is_harmless(pattern: object) -> bool:
    """Whether matching takes a time that is bounded by a small power of a name's length: no repeated groups."""
    return (
        isinstance(pattern, str)
        and len(pattern) <= _MAX_PATTERN
        and not re.search(r"\)\s*[*+?{]", pattern)
        and len(re.findall(r"(?<!\\)[*+{]", pattern)) <= _MAX_QUANTIFIERS
    )


def _most_common(values: Mapping[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]


def _whole(alpha: float) -> float | int:
    """Alpha as PEFT annotates it, an integer, where it is one."""
    return int(alpha) if alpha == int(alpha) else alpha
