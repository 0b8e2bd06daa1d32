"""The norm in few passes against its formula."""

from __future__ import annotations

import pytest
import torch

from ltx_diffusers.functional.rms_norm import rms_norm


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 5e-3)]
)
@pytest.mark.parametrize("with_weight", [False, True])
def test_formula(dtype, tolerance, with_weight, grad) -> None:
    x = torch.randn(2, 5, 24, dtype=dtype) * torch.tensor([1e-3, 1.0, 30.0, 1.0, 0.0], dtype=dtype)[:, None]
    weight = torch.rand(24, dtype=dtype) + 0.5 if with_weight else None
    scale = (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    expected = x.double() * scale * (1 if weight is None else weight.double())
    with torch.set_grad_enabled(grad):
        got = rms_norm(x, weight, 1e-5)
    assert got.dtype == dtype
    assert float((got.double() - expected).norm() / expected.norm()) < tolerance
    assert torch.equal(got[:, 4], torch.zeros_like(got[:, 4]))


def test_the_input_is_left_as_it_is() -> None:
    x, weight = torch.randn(3, 8), torch.randn(8)
    copies = x.clone(), weight.clone()
    with torch.no_grad():
        rms_norm(x, weight, 1e-6)
    assert torch.equal(x, copies[0]) and torch.equal(weight, copies[1])
