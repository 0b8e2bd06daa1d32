"""Attention in bf16 on a CPU as products of matrices.

PyTorch's fused operator computes bf16 attention of a CPU without the processor's bf16 instructions where it has no
matrix unit (AMX). Plain products use them; a few hundred queries at a time, so that the scores stay in the cache.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

_QUERIES = 256
"""Queries at a time."""

_LEAST_KEYS = 256
"""For fewer keys the fused operator is as fast."""


def takes_attention(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether `attend_on_cpu` is to be used: where Diffusers' default would be, and it pays.

    Args:
        query: (B, L, H, D).
        key: (B, S, H, D).
        mask: Additive bias, or None.
    """
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and mask is None
        and key.shape[1] >= _LEAST_KEYS
        and query.shape[1] >= _QUERIES
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and type(query) is torch.Tensor
        and _AttentionBackendRegistry.get_active_backend()[0] == AttentionBackendName.NATIVE
    )


def attend_on_cpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(q k / sqrt(D)) v for each head, without a mask and without gradients.

    Args:
        query: (B, L, H, D).
        key: (B, S, H, D).
        value: (B, S, H, D).

    Returns:
        (B, L, H, D).
    """
    length, dim = query.shape[1], query.shape[-1]
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    scores = query.new_empty(_QUERIES, key.shape[1])
    for queries, keys, values, results in zip(query, key, value, result, strict=True):
        # Heads first and side by side in memory: products want neighbours along one axis.
        queries, values, results = (x.transpose(0, 1) for x in (queries, values, results))
        queries, values, keys = queries.contiguous(), values.contiguous(), keys.permute(1, 2, 0).contiguous()
        for head in range(query.shape[2]):
            for first in range(0, length, _QUERIES):
                some = queries[head, first : first + _QUERIES]
                weights = scores[: some.shape[0]]
                torch.addmm(weights, some, keys[head], beta=0, alpha=dim**-0.5, out=weights)
                torch.softmax(weights, dim=-1, out=weights)
                torch.mm(weights, values[head], out=results[head, first : first + _QUERIES])
    return result
