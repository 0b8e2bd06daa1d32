from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.latents import (
    denormalize_latents,
    normalize_latents,
    pack_latents,
    unpack_latents,
)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 3),
    grid=st.tuples(*[st.integers(1, 3)] * 3),
    patch_size=st.integers(1, 2),
    patch_size_t=st.integers(1, 2),
)
def test_every_latent_has_its_place_and_comes_back(batch, channels, grid, patch_size, patch_size_t) -> None:
    frames, height, width = grid[0] * patch_size_t, grid[1] * patch_size, grid[2] * patch_size
    shape = (batch, channels, frames, height, width)
    latents = torch.arange(batch * channels * frames * height * width).reshape(shape)
    tokens = pack_latents(latents, patch_size, patch_size_t)
    for b, c, f, h, w in torch.cartesian_prod(*(torch.arange(side) for side in shape)).tolist():
        token = ((f // patch_size_t) * grid[1] + h // patch_size) * grid[2] + w // patch_size
        inside = ((c * patch_size_t + f % patch_size_t) * patch_size + h % patch_size) * patch_size
        assert tokens[b, token, inside + w % patch_size] == latents[b, c, f, h, w]
    assert torch.equal(unpack_latents(tokens, frames, height, width, patch_size, patch_size_t), latents)


def test_normalisation_is_the_formula_and_its_inverse() -> None:
    latents = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    mean, std = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([2.0, 0.5, 3.0])
    normalised = normalize_latents(latents, mean, std, scaling_factor=1.5)
    for channel in range(3):
        expected = (latents[:, channel] - mean[channel].item()) * 1.5 / std[channel].item()
        torch.testing.assert_close(normalised[:, channel], expected)
    torch.testing.assert_close(denormalize_latents(normalised, mean, std, scaling_factor=1.5), latents)


def test_normalisation_keeps_the_type() -> None:
    statistics = torch.zeros(3), torch.ones(3)
    assert (
        normalize_latents(torch.zeros(1, 3, 1, 1, 1, dtype=torch.bfloat16), *statistics).dtype
        == torch.bfloat16
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda: pack_latents(torch.zeros(1, 4, 6, 8)),
        lambda: pack_latents(torch.zeros(1, 4, 2, 3, 4), patch_size=2),
        lambda: pack_latents(torch.zeros(1, 4, 3, 4, 4), patch_size_t=2),
        lambda: unpack_latents(torch.zeros(1, 23, 4), 2, 3, 4),
        lambda: unpack_latents(torch.zeros(23, 4), 2, 3, 4),
        lambda: normalize_latents(torch.zeros(1, 4, 2, 2, 2), torch.zeros(3), torch.ones(3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call) -> None:
    with pytest.raises(InputError):
        call()
