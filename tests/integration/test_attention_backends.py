"""Diffusers' attention backends reach our attention layers."""

from __future__ import annotations

import functools

import pytest
import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    attention_backend,
)
from helpers.transformers import TINY, on_grid, tiny_inputs

from ltx_diffusers import LTXTransformer3DModel

ON_CPU = ("native", "_native_math", pytest.param("flex", marks=pytest.mark.slow))
ATTENTIONS = 2 * TINY["num_layers"]


@pytest.fixture
def model() -> LTXTransformer3DModel:
    return LTXTransformer3DModel(**TINY).eval().requires_grad_(False)


@pytest.fixture
def calls(monkeypatch) -> list[AttentionBackendName]:
    """Names of the backends, in the order in which they are called. The chosen backend is put back afterwards."""
    made = []
    for name, function in _AttentionBackendRegistry._backends.items():

        @functools.wraps(function)
        def recorded(*args, name=name, function=function, **kwargs):
            made.append(name)
            return function(*args, **kwargs)

        monkeypatch.setitem(_AttentionBackendRegistry._backends, name, recorded)
    monkeypatch.setattr(
        _AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend
    )
    return made


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_backend_for_the_model(model, calls, backend):
    inputs = {**tiny_inputs(), **on_grid()}
    expected = model(**inputs)[0]
    calls.clear()
    model.set_attention_backend(backend)
    torch.testing.assert_close(model(**inputs)[0], expected)
    assert calls == [backend] * ATTENTIONS
    model.reset_attention_backend()
    assert all(block.attn1.processor._attention_backend is None for block in model.transformer_blocks)


def test_a_backend_for_a_while(model, calls):
    inputs = {**tiny_inputs(), **on_grid()}
    with attention_backend("_native_math"):
        model(**inputs)
    model(**inputs)
    assert calls == ["_native_math"] * ATTENTIONS + ["native"] * ATTENTIONS


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["_native_efficient", "_native_flash"])
@pytest.mark.parametrize("mask", [False, True], ids=["all text", "masked text"])
def test_backends_of_an_accelerator(model, calls, backend, mask):
    if backend == "_native_flash" and mask:
        pytest.skip("flash attention takes no mask")
    model.to("cuda", torch.bfloat16)
    inputs = {**tiny_inputs(mask=mask), **on_grid()}
    inputs = {
        name: value.to("cuda", torch.bfloat16 if value.is_floating_point() and name != "timestep" else None)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }
    expected = model(**inputs)[0]
    calls.clear()
    model.set_attention_backend(backend)
    torch.testing.assert_close(model(**inputs)[0], expected, atol=2e-2, rtol=2e-2)
    assert calls == [backend] * ATTENTIONS
