from __future__ import annotations

import math

import pytest
import torch

from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.rope import MAX_POSITION, apply_rotary, rotary_embedding, rotary_turns, turn_

COORDS = torch.tensor([[[0.0, 0.04, 0.36, 4.84], [0.0, 32, 64, 480], [0.0, 0, 96, 672]]], dtype=torch.float64)


def angles_by_hand(coords: torch.Tensor, dim: int, theta: float) -> torch.Tensor:
    """Angle of every channel (L, dim), one by one."""
    count = dim // 6
    angles = torch.zeros(coords.shape[1], dim, dtype=torch.float64)
    for token in range(coords.shape[1]):
        channel = dim % 6
        for i in range(count):
            frequency = theta ** (i / max(count - 1, 1)) * math.pi / 2
            for axis in range(3):
                angle = frequency * (2 * coords[axis, token].item() / MAX_POSITION[axis] - 1)
                angles[token, channel : channel + 2] = angle
                channel += 2
    return angles


@pytest.mark.parametrize("dim", [6, 8, 10, 48, 64])
def test_against_the_formula(dim) -> None:
    cos, sin = rotary_embedding(COORDS, dim, theta=100.0)
    angles = angles_by_hand(COORDS[0], dim, 100.0)
    torch.testing.assert_close(cos[0], angles.cos(), rtol=0, atol=1e-11)
    torch.testing.assert_close(sin[0], angles.sin(), rtol=0, atol=1e-11)


def test_fp32_is_near_float64() -> None:
    """At theta 10,000 an fp32 angle is off by up to 15,708 * 2**-23."""
    for exact, rounded in zip(
        rotary_embedding(COORDS, 64), rotary_embedding(COORDS.float(), 64), strict=True
    ):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=4e-3)


def test_left_over_channels_are_not_turned() -> None:
    x = torch.randn(1, 4, 64)
    turned = apply_rotary(x, *rotary_embedding(COORDS.float(), 64))
    assert torch.equal(turned[..., :4], x[..., :4])
    assert not torch.isclose(turned[..., 4:], x[..., 4:]).all(dim=-1).any()


def test_rotation_is_multiplication_of_complex_numbers() -> None:
    x = torch.randn(2, 4, 48, dtype=torch.float64)
    cos, sin = rotary_embedding(COORDS, 48)
    expected = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos[..., ::2], sin[..., ::2])
    torch.testing.assert_close(apply_rotary(x, cos, sin), torch.view_as_real(expected).flatten(-2))


def test_only_differences_of_coordinates_count() -> None:
    """Scores of turned queries and keys don't change when all coordinates are shifted alike."""
    query, key = torch.randn(2, 1, 4, 48, dtype=torch.float64)

    def scores(shift: float) -> torch.Tensor:
        rotary = rotary_embedding(COORDS + shift, 48)
        return apply_rotary(query, *rotary) @ apply_rotary(key, *rotary).mT

    torch.testing.assert_close(scores(0.0), scores(1.5), rtol=1e-9, atol=1e-9)


def test_the_type_of_the_input_is_kept() -> None:
    rotary = rotary_embedding(COORDS.float(), 12)
    x = torch.randn(1, 4, 12)
    turned = apply_rotary(x.bfloat16(), *rotary)
    assert turned.dtype == torch.bfloat16
    torch.testing.assert_close(turned, apply_rotary(x.bfloat16().float(), *rotary).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("coords", "dim"), [(torch.zeros(3, 4), 12), (torch.zeros(1, 4, 3), 12), (COORDS, 7)]
)
def test_wrong_shapes_are_refused(coords, dim) -> None:
    with pytest.raises(InputError):
        rotary_embedding(coords, dim)


@pytest.mark.parametrize("dim", [6, 48, 64])
def test_turns_are_the_embedding_as_complex_numbers(dim) -> None:
    turns = rotary_turns(COORDS, dim)
    cos, sin = rotary_embedding(COORDS, dim)
    torch.testing.assert_close(turns, torch.complex(cos[..., ::2], sin[..., ::2]), rtol=0, atol=1e-11)
    x = torch.randn(2, 4, dim, dtype=torch.float64)
    expected = apply_rotary(x, cos, sin)
    torch.testing.assert_close(turn_(x, turns), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-11)  # in place
