"""Linear layers by oneDNN against PyTorch's own, and where they must not be used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ltx_diffusers.functional import cpu_linear
from ltx_diffusers.functional.cpu_linear import linear, onednn_agrees, only_documented_operators

ERRORS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.fixture
def calls(monkeypatch):
    """Calls of the operator."""
    made, operator = [], cpu_linear._by_onednn
    onednn_agrees()
    monkeypatch.setattr(cpu_linear, "_by_onednn", lambda *args: made.append(args) or operator(*args))
    return made


def tensors(dtype=torch.float32, shape=(3, 40, 24)):
    return (
        torch.randn(shape, dtype=dtype),
        torch.randn(56, shape[-1], dtype=dtype),
        torch.randn(56, dtype=dtype),
    )


def error(got, x, weight, bias, gelu=False) -> float:
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    expected = F.gelu(expected, approximate="tanh") if gelu else expected
    return float((got.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", ERRORS)
@torch.no_grad()
def test_is_the_layer(dtype, with_bias, gelu) -> None:
    x, weight, bias = tensors(dtype)
    bias = bias if with_bias else None
    got = linear(x, weight, bias, gelu=gelu)
    assert got.dtype == dtype and got.shape == (3, 40, 56)
    assert error(got, x, weight, bias, gelu) < ERRORS[dtype]
    # Neighbours in memory or not.
    apart = x.transpose(0, 1)
    assert error(linear(apart, weight, bias, gelu=gelu), apart, weight, bias, gelu) < ERRORS[dtype]


@pytest.mark.skipif(not onednn_agrees(), reason="this PyTorch has no such operator")
def test_is_used_without_gradients_only(calls) -> None:
    x, weight, bias = tensors()
    weight.requires_grad_()
    linear(x, weight, bias).sum().backward()
    assert not calls and weight.grad is not None
    with torch.no_grad():
        linear(x, weight, bias)
        assert len(calls) == 1
        with only_documented_operators():
            linear(x, weight, bias)
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight, bias).dtype == torch.bfloat16
        linear(x.double(), weight.double(), bias.double())
        linear(x[0, :2], weight, bias)
        assert len(calls) == 1
        linear(x, weight, bias)
    assert len(calls) == 2


@torch.no_grad()
def test_an_operator_that_is_missing_or_differs_is_left_alone(monkeypatch) -> None:
    x, weight, bias = tensors()
    expected = F.linear(x, weight, bias)

    def missing(*args):
        raise AttributeError("no such operator")

    for operator in (missing, lambda x, weight, bias, gelu: F.linear(x, weight, bias) + 1):
        monkeypatch.setattr(cpu_linear, "_by_onednn", operator)
        onednn_agrees.cache_clear()
        assert not onednn_agrees()
        assert torch.equal(linear(x, weight, bias), expected)
    monkeypatch.undo()
    onednn_agrees.cache_clear()
