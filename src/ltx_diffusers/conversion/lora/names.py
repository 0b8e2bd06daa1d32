"""The layers of the transformer that a LoRA can change, by every spelling in use.

Files spell a layer as we and Diffusers do ("transformer_blocks.0.attn1.to_q", "proj_in"), or as the official code
does ("patchify_proj", "adaln_single.linear"), with dots, or with underscores in their place (kohya).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..renames import to_official

BLOCKS = "transformer_blocks"

_ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
_BLOCK_LAYERS = (
    *(f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in _ATTENTION_LAYERS),
    "ff.net.0.proj",
    "ff.net.2",
)
_OUTER_LAYERS = (
    "proj_in",
    "proj_out",
    "time_embed.emb.timestep_embedder.linear_1",
    "time_embed.emb.timestep_embedder.linear_2",
    "time_embed.linear",
    "caption_projection.linear_1",
    "caption_projection.linear_2",
)
# Parameters that aren't weights or biases of linear layers; only full differences can change them.
_BLOCK_NORMS = tuple(
    f"{attention}.{norm}" for attention in ("attn1", "attn2") for norm in ("norm_q", "norm_k")
)
_TABLE = "scale_shift_table"

_BLOCK = re.compile(rf"{BLOCKS}[._](0|[1-9]\d{{0,3}})[._](.+)")


def official_name(layer: str) -> str:
    """A layer's name in the official code."""
    return to_official("transformer", f"{layer}.weight", None).removesuffix(".weight")


def _official_rest(rest: str) -> str:
    """The official name of what follows a block's number."""
    return official_name(f"{BLOCKS}.0.{rest}").removeprefix(f"{BLOCKS}.0.")


def _spellings(layers: Iterable[str], official: Iterable[str]) -> dict[str, str]:
    """Our name by each spelling."""
    found = {}
    for ours, theirs in zip(layers, official, strict=True):
        for name in (ours, theirs):
            found |= {name: ours, name.replace(".", "_"): ours}
    return found


_IN_BLOCKS = _spellings(_BLOCK_LAYERS, map(_official_rest, _BLOCK_LAYERS))
_OUTSIDE = _spellings(_OUTER_LAYERS, map(official_name, _OUTER_LAYERS))
_NORMS = _spellings(_BLOCK_NORMS, map(_official_rest, _BLOCK_NORMS))


def find_layer(path: str) -> str | None:
    """Our name of the linear layer that a file spells `path`; None if there is no such layer."""
    block = _BLOCK.fullmatch(path)
    if block is None:
        return _OUTSIDE.get(path)
    number, rest = block.groups()
    return f"{BLOCKS}.{number}.{_IN_BLOCKS[rest]}" if rest in _IN_BLOCKS else None


def find_parameter(path: str, is_bias: bool) -> str | None:
    """Our name of the parameter whose full difference a file calls `path`; None if there is no such parameter."""
    layer = find_layer(path)
    if layer is not None:
        return f"{layer}.bias" if is_bias else f"{layer}.weight"
    if is_bias:
        return None
    if path == _TABLE:
        return _TABLE
    block = _BLOCK.fullmatch(path)
    if block is None:
        return None
    number, rest = block.groups()
    if rest == _TABLE:
        return f"{BLOCKS}.{number}.{_TABLE}"
    return f"{BLOCKS}.{number}.{_NORMS[rest]}.weight" if rest in _NORMS else None


def block_of(layer: str) -> str:
    """Where a layer or parameter is: "transformer_blocks.3", or "outside the blocks"."""
    block = _BLOCK.fullmatch(layer)
    return f"{BLOCKS}.{block[1]}" if block else "outside the blocks"


def block_order(block: str) -> tuple[bool, int]:
    """Key that sorts what `block_of` gives: blocks by number, the rest after them."""
    number = block.rpartition(".")[2]
    return (False, int(number)) if number.isdigit() else (True, 0)


def layers_of(num_layers: int) -> list[str]:
    """Names of all linear layers of a transformer with so many blocks."""
    blocks = [f"{BLOCKS}.{number}.{layer}" for number in range(num_layers) for layer in _BLOCK_LAYERS]
    return [*_OUTER_LAYERS, *blocks]
