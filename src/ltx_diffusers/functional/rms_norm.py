"""Root-mean-square norms over the last axis in few passes over memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps), times `weight` (arXiv 1910.07467), over the last axis.

    On a CPU PyTorch's operator takes six passes over memory, and with gradients it must keep what they need;
    elsewhere it is one kernel.

    Args:
        x: (..., C).
        weight: (C,), or None.
        eps: Added to the mean square.

    Returns:
        (..., C) in the type of `x`; computed in fp32 at least.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    return scaled_to_unit(x, weight, eps).to(x.dtype)


def scaled_to_unit(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """`rms_norm` as a new tensor of the type that it is computed in: fp32, or that of `x` if wider. No gradients."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype)
    scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    # Type promotion gives the wider type, without a copy of x in it.
    result = x * scale
    return result if weight is None else result.mul_(weight)
