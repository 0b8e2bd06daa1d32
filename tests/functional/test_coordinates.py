from __future__ import annotations

import itertools

import pytest
import torch

from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import scaled_coordinates, token_grid, video_coordinates
from ltx_diffusers.geometry import CompressionRatios, VideoSize

SIZE = VideoSize(4, 2, 3)


def in_float64(rate: float, causal: bool, first_frame: int = 0, ratios=(8, 32, 32)) -> torch.Tensor:
    """The rule written out token by token."""
    time, height, width = ratios
    return torch.tensor(
        [
            [
                ((max(0, time * f + 1 - time) if causal else time * f) + first_frame) / rate,
                height * y,
                width * x,
            ]
            for f, y, x in itertools.product(*(range(side) for side in SIZE))
        ],
        dtype=torch.float64,
    ).T


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rate", [24, 25.0, 29.97])
@pytest.mark.parametrize("first_frame", [0, 16])
def test_against_float64(causal, rate, first_frame) -> None:
    coords = video_coordinates(SIZE, batch_size=2, frame_rate=rate, causal=causal, first_frame=first_frame)
    assert coords.shape == (2, 3, 24)
    assert coords.dtype == torch.float32
    for sample in coords:
        torch.testing.assert_close(sample.double(), in_float64(rate, causal, first_frame), rtol=1e-6, atol=0)


def test_causal_frames_are_those_that_latents_stand_for() -> None:
    """Latent frame k > 0 stands for frames 8k-7..8k; frame rate 1 makes seconds frames."""
    coords = video_coordinates(VideoSize(4, 1, 1), frame_rate=1, causal=True)
    assert coords[0, 0].tolist() == [0, 1, 9, 17]


def test_each_video_has_its_rate() -> None:
    coords = video_coordinates(SIZE, batch_size=2, frame_rate=torch.tensor([24.0, 30.0]), causal=True)
    for sample, rate in zip(coords, (24, 30), strict=True):
        torch.testing.assert_close(sample, video_coordinates(SIZE, frame_rate=rate, causal=True)[0])


def test_other_ratios() -> None:
    ratios = CompressionRatios(4, 16, 8)
    coords = video_coordinates(SIZE, frame_rate=25, causal=True, ratios=ratios)
    torch.testing.assert_close(coords[0].double(), in_float64(25, True, ratios=ratios), rtol=1e-6, atol=0)


@pytest.mark.parametrize("causal_ratio", [None, 8])
def test_scaled_coordinates_say_the_same(causal_ratio) -> None:
    for rate in (24, 25, 29.97):
        coords = scaled_coordinates(SIZE, (8 / rate, 32, 32), batch_size=2, causal_ratio=causal_ratio)
        expected = in_float64(rate, causal_ratio is not None)
        torch.testing.assert_close(coords.double(), expected.expand(2, -1, -1), rtol=1e-6, atol=0)


def test_scaled_coordinates_take_tensors() -> None:
    expected = scaled_coordinates(SIZE, (0.25, 32, 32), batch_size=2)
    torch.testing.assert_close(scaled_coordinates(SIZE, torch.tensor([0.25, 32, 32]), batch_size=2), expected)
    rates = torch.tensor([0.25, 0.5])
    per_sample = scaled_coordinates(SIZE, (rates, 32, 32), batch_size=2)
    torch.testing.assert_close(per_sample[0], expected[0])
    torch.testing.assert_close(per_sample[1, 0], expected[1, 0] * 2)


IMPOSSIBLE_RATES = [0, -24.0, float("nan"), torch.ones(3), torch.ones(2, 1)]
IMPOSSIBLE_RATES += [torch.tensor(0.0), torch.tensor([24.0, -1.0]), torch.tensor([24.0, float("nan")])]


@pytest.mark.parametrize("rate", IMPOSSIBLE_RATES, ids=str)
def test_impossible_rates_are_refused(rate) -> None:
    with pytest.raises(InputError, match="frame rate"):
        video_coordinates(SIZE, batch_size=2, frame_rate=rate, causal=True)


def test_empty_grids_are_refused() -> None:
    with pytest.raises(InputError):
        token_grid(VideoSize(0, 2, 2))
