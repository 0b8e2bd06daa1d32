"""Linear layers on a CPU by oneDNN: PyTorch's own choice for fp32, MKL, is slower on processors that aren't Intel's.

The operator isn't part of PyTorch's documented interface. So it is tried once and compared with `linear`, left alone
where it is missing or gives anything else, and `only_documented_operators` switches it off. It records no gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

_FEW_ROWS = 16
"""With fewer rows a layer reads weights and little else, and a call's overhead counts."""

_DTYPES = (torch.float32, torch.bfloat16)

_switch = {"on": True}


@contextmanager
def only_documented_operators() -> Iterator[None]:
    """A context in which linear layers are PyTorch's own, for all threads."""
    before, _switch["on"] = _switch["on"], False
    try:
        yield
    finally:
        _switch["on"] = before


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool = False
) -> torch.Tensor:
    """`x` (..., C) times the transposed `weight` (C', C), plus `bias` (C',): (..., C').

    Args:
        x: Input.
        weight: Weights.
        bias: Bias, or None.
        gelu: Whether to apply GELU, in its approximation by tanh, to the result.
    """
    if _takes(x, weight, bias):
        return _by_onednn(x, weight, bias, gelu)
    result = F.linear(x, weight, bias)
    return F.gelu(result, approximate="tanh") if gelu else result


def _takes(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether oneDNN may compute it: plain tensors on a CPU, no gradients, no autocast, no tracing."""
    return (
        _switch["on"]
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and weight.dtype == x.dtype
        and (bias is None or bias.dtype == x.dtype)
        and type(x) is torch.Tensor
        and type(weight) in (torch.Tensor, torch.nn.Parameter)
        and x.numel() >= _FEW_ROWS * x.shape[-1]
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and onednn_agrees()
    )


def _by_onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gelu: bool) -> torch.Tensor:
    operator = torch.ops.mkldnn._linear_pointwise
    return operator(x, weight, bias, "gelu" if gelu else "none", [], "tanh" if gelu else "")


@functools.cache
def onednn_agrees() -> bool:
    """Whether the operator is there and gives what `linear` and `gelu` give. Tried once, on small tensors."""
    if not torch.backends.mkldnn.is_available():
        return False
    source = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=source) for shape in ((2, 24, 40), (56, 40), (56,)))
    try:
        with torch.no_grad():
            for gelu in (False, True):
                expected = F.linear(x, weight, bias)
                expected = F.gelu(expected, approximate="tanh") if gelu else expected
                if not torch.allclose(_by_onednn(x, weight, bias, gelu), expected, rtol=1e-4, atol=1e-4):
                    return False
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True
