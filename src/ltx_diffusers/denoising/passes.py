"""What a batch of passes needs of the model: the text that counts, rows in common, runs of equal tokens, memory.

Each is found once for a loop, because looking at values waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import psutil
import torch
from accelerate.hooks import CpuOffload
from torch import Tensor, nn

_MOST_RUNS = 16
"""For more runs of tokens, timesteps per token cost less than a call for each run."""

_COPIES_OF_TOKENS = 16
"""Tensors as large as the tokens inside the model that exist at a time: 4 in the feed-forward, queries, keys, ..."""


class Runs(NamedTuple):
    """Neighbouring tokens that are given alike in every sample.

    Attributes:
        lengths: Tokens of each run.
        first: (K,) index of each run's first token, where the tokens are.
    """

    lengths: tuple[int, ...]
    first: Tensor


def runs_of(strength: Tensor) -> Runs | None:
    """The runs of tokens of equal strength.

    Args:
        strength: (B, L).

    Returns:
        None if there are too many.
    """
    changes = (strength[:, 1:] != strength[:, :-1]).any(dim=0).nonzero().flatten() + 1
    first = [0, *changes.tolist()]
    if len(first) > _MOST_RUNS:
        return None
    ends = [*first[1:], strength.shape[1]]
    lengths = tuple(end - start for start, end in zip(first, ends, strict=True))
    return Runs(lengths, torch.tensor(first, device=strength.device))


def rows_in_common(coords: Tensor) -> Tensor:
    """Coordinates (B, 3, L) as one row (1, 3, L), if all rows are equal."""
    return coords[:1] if bool((coords == coords[:1]).all()) else coords


def without_padding(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Text without the positions that no row reads, and without a mask if every row then reads everything.

    Args:
        embeds: (B, T, D).
        mask: (B, T), true or 1 at tokens of text.

    Returns:
        Features (B, T', D), and the mask (B, T') or None.
    """
    read = mask.bool() if mask.dtype == torch.bool else mask == 1
    fractional = not bool((read | (mask == 0)).all())
    # A row that reads nothing is attended to evenly, padding and all.
    if fractional or not bool(read.any(dim=1).all()):
        return embeds, mask
    kept = read.any(dim=0).nonzero().flatten()
    if len(kept) < mask.shape[1]:
        embeds, mask, read = embeds[:, kept], mask[:, kept], read[:, kept]
    return embeds, None if bool(read.all()) else mask


def fit_in_one_batch(transformer: nn.Module, rows: int, tokens: Tensor) -> bool:
    """Whether a batch fits in the free memory, by a rough count of what the model holds at a time.

    Weights that model offloading fetches for the model's first run are fetched here, for they take of that memory, and
    the models that leave for them give some back.

    Args:
        transformer: The model.
        rows: Rows of the batch.
        tokens: (B, L, C) tokens of one pass.
    """
    hook = getattr(transformer, "_hf_hook", None)
    if isinstance(hook, CpuOffload):
        hook.pre_forward(transformer)
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    length = tokens.shape[1] // getattr(transformer, "token_shares", 1)
    needed = rows * length * width * _COPIES_OF_TOKENS * transformer.dtype.itemsize
    return needed < free_memory(tokens.device)


def free_memory(device: torch.device) -> float:
    """Bytes that a device has left, for all that PyTorch can tell; no bound where it can't."""
    if device.type == "cpu":
        return psutil.virtual_memory().available
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held
    return float("inf")
