"""Context parallelism: how the tokens of a video are shared out over processes.

Diffusers' plan names modules and splits what goes in or comes out of them. It tells tensors apart by their number of
dimensions only, and can't leave out an argument that isn't given, which isn't enough here: per-token timesteps
(B, L) must be split, per-sample ones, (B,) or (B, 1), must not. Nor can a plan on the model itself return an output
object. So the model passes exactly what is to be split through one `Shard`.

The text isn't split: every process keeps its few tokens whole, so that cross-attention needs no exchange, masks stay
as they are, and a text may have any length.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from diffusers.models._modeling_parallel import (
    ContextParallelConfig,
    ContextParallelInput,
    ContextParallelOutput,
    gather_size_by_comm,
)
from torch import nn

from ...errors import InputError


class Shard(nn.Identity):
    """Hands on its input; under context parallelism, this process's share of it along dimension 1."""


CONTEXT_PARALLEL_PLAN = {
    "shard": {0: ContextParallelInput(split_dim=1, split_output=True)},
    "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
}
"""What passes through the model's `shard` is split, the output is gathered."""


def share_out(config: Any, num_tokens: int, heads: int) -> None:
    """Get Diffusers' config ready for a number of tokens: shares are of one length where that is possible.

    Unequal shares, and heads that don't divide, cost a small exchange of lengths in each attention.

    Args:
        config: The model's `_parallel_config`.
        num_tokens: All tokens L.
        heads: Heads of the self-attention.

    Raises:
        InputError: If there are fewer tokens than processes, or, with gradients, shares aren't of one length.
    """
    shared: ContextParallelConfig = config.context_parallel_config
    processes = shared.ring_degree * shared.ulysses_degree
    if num_tokens < processes:
        raise InputError(
            "there are fewer tokens than processes to share them",
            got=f"{num_tokens} tokens, {processes} processes",
            fix="make a larger video, or use fewer processes",
        )
    unequal = num_tokens % processes > 0 or heads % shared.ulysses_degree > 0
    if unequal and torch.is_grad_enabled():
        raise InputError(
            "with gradients, tokens and heads must divide evenly over the processes",
            got=f"{num_tokens} tokens over {processes}, {heads} heads over {shared.ulysses_degree}",
            fix="choose another size or number of frames, or run it under torch.no_grad()",
        )
    shared.ulysses_anything = shared.ring_anything = unequal


def share_of_runs(runs: Sequence[int], config: Any) -> tuple[slice, tuple[int, ...]]:
    """Runs of tokens as this process's share has them: which of the runs, and their lengths there."""
    rank, shares = _shares(sum(runs), config)
    start, end = sum(shares[:rank]), sum(shares[: rank + 1])
    lengths, first, before = [], 0, 0
    for index, run in enumerate(runs):
        inside = min(end, before + run) - max(start, before)
        before += run
        if inside > 0:
            first = first if lengths else index
            lengths.append(inside)
    return slice(first, first + len(lengths)), tuple(lengths)


def filled_up(hidden: torch.Tensor, num_tokens: int, config: Any) -> torch.Tensor:
    """A share (B, l, C) of tokens as long as the longest, because not every backend gathers unequal ones."""
    rank, shares = _shares(num_tokens, config)
    missing = max(shares) - shares[rank]
    return functional.pad(hidden, (0, 0, 0, missing)) if missing else hidden


def without_filling(gathered: torch.Tensor, num_tokens: int, config: Any) -> torch.Tensor:
    """All tokens (B, L, C) from shares that were filled up."""
    _, shares = _shares(num_tokens, config)
    if min(shares) == max(shares):
        return gathered
    parts = gathered.chunk(len(shares), dim=1)
    return torch.cat([part[:, :share] for part, share in zip(parts, shares, strict=True)], dim=1)


def _shares(num_tokens: int, config: Any) -> tuple[int, list[int]]:
    """This process's rank, and the tokens of each: the first have one more, as `Tensor.tensor_split` has it."""
    group = config.context_parallel_config._flattened_mesh.get_group()
    length, longer = divmod(num_tokens, dist.get_world_size(group))
    return dist.get_rank(group), [length + (rank < longer) for rank in range(dist.get_world_size(group))]


def gathered_by_ring(
    key: torch.Tensor, value: torch.Tensor, config: Any
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Keys and values of all processes of the ring, and the config of what is still to be exchanged.

    Diffusers gathers them likewise, then attends to one process's share after the other and merges the results by
    their log-sum-exp, which few backends give. Attending to all of them at once needs no more memory, and any
    backend can do it.

    Args:
        key: (B, l, H, D), this process's share.
        value: The same.
        config: The model's `_parallel_config`.

    Returns:
        Keys and values, and a config with Ulysses only, or None if nothing else is to be exchanged.
    """
    shared: ContextParallelConfig = config.context_parallel_config
    if shared.ring_degree == 1:
        return key, value, config
    group = shared._ring_mesh.get_group()
    both = torch.stack([key, value])
    lengths = [both.shape[2]] * shared.ring_degree
    if shared.ring_anything:
        lengths = gather_size_by_comm(both.shape[2], group)
        both = torch.cat(
            [both, both.new_zeros(2, key.shape[0], max(lengths) - both.shape[2], *key.shape[2:])], 2
        )
    if torch.is_grad_enabled():
        from torch.distributed.nn.functional import all_gather

        parts = all_gather(both, group)
    else:
        gathered = both.new_empty(2 * shared.ring_degree, *both.shape[1:])
        dist.all_gather_into_tensor(gathered, both, group)
        parts = gathered.chunk(shared.ring_degree)
    parts = [part[:, :, :length] for part, length in zip(parts, lengths, strict=True)]
    key, value = torch.cat(parts, dim=2)
    return key, value, _without_ring(config)


def _without_ring(config: Any) -> Any:
    """The config for Ulysses after the ring has met; None without Ulysses."""
    if config.context_parallel_config.ulysses_degree == 1:
        return None
    rest = copy.copy(config)
    rest.context_parallel_config = copy.copy(config.context_parallel_config)
    rest.context_parallel_config.ring_degree = 1
    return rest
