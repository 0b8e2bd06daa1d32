"""Attention in bf16 on a CPU against float64, and where it takes the place of the fused operator."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.models.transformers import attention_ltx
from ltx_diffusers.models.transformers.cpu_attention import attend_on_cpu, takes_attention


def heads(length: int, dtype=torch.bfloat16, count: int = 3) -> torch.Tensor:
    return torch.randn(2, length, count, 16, dtype=dtype)


@pytest.mark.parametrize("lengths", [(256, 256), (300, 700), (1, 5)])
@torch.no_grad()
def test_against_float64(lengths) -> None:
    queries, keys = lengths
    query, key, value = heads(queries), heads(keys), heads(keys)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.double().transpose(1, 2) for x in (query, key, value))
    ).transpose(1, 2)
    got = attend_on_cpu(query, key, value)
    assert got.shape == query.shape and got.dtype == torch.bfloat16 and got.is_contiguous()
    assert float((got.double() - expected).norm() / expected.norm()) < 1e-2


def test_where_it_is_used() -> None:
    query, mask = heads(256), torch.zeros(2, 1, 1, 256)
    assert not takes_attention(query, query, None)  # with gradients
    with torch.no_grad():
        assert takes_attention(query, query, None)
        assert not takes_attention(query, query, mask)
        assert not takes_attention(query.float(), query.float(), None)
        assert not takes_attention(query, heads(40), None)
        with attention_backend("_native_math"):
            assert not takes_attention(query, query, None)


@torch.no_grad()
def test_trained_weights_are_no_less_accurate_for_it(monkeypatch) -> None:
    """Scores in bf16 instead of fp32 are lost among the other roundings of a bf16 model."""
    model = LTXTransformer3DModel.from_pretrained(
        embedded_model_path(), subfolder="transformer", torch_dtype=torch.bfloat16
    ).eval()
    config = model.config
    inputs = {
        "hidden_states": torch.randn(1, 512, config.in_channels),
        "encoder_hidden_states": torch.randn(1, 8, config.caption_channels),
        "timestep": torch.tensor([700.0]),
    }
    where = {"num_frames": 8, "height": 8, "width": 8, "frame_rate": 8.0, "return_dict": False}
    exact = copy.deepcopy(model).double()(**{name: x.double() for name, x in inputs.items()}, **where)[0]
    inputs = {name: x.bfloat16() if name != "timestep" else x for name, x in inputs.items()}
    errors = {}
    for used in (True, False):
        if not used:
            monkeypatch.setattr(attention_ltx, "takes_attention", lambda *args: False)
        errors[used] = float((model(**inputs, **where)[0].double() - exact).norm() / exact.norm())
    assert errors[True] != errors[False]
    assert errors[True] < 1.1 * errors[False]
