"""Sizes of videos: the rules 8k+1 and multiples of 32, and the messages of those who break them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltx_diffusers.errors import InputError
from ltx_diffusers.geometry import (
    CompressionRatios,
    VideoSize,
    check_video_size,
    latent_size,
    nearest_valid_frames,
    nearest_valid_side,
    pixel_size,
)

positive = st.integers(1, 50)
ratios = st.builds(CompressionRatios, positive, positive, positive)


def test_the_released_models_sizes() -> None:
    assert latent_size(VideoSize(121, 512, 704)) == (16, 16, 22)
    assert pixel_size(VideoSize(16, 16, 22)) == (121, 512, 704)
    assert latent_size(VideoSize(1, 32, 32)) == (1, 1, 1)


@given(st.builds(VideoSize, positive, positive, positive), ratios)
def test_pixels_and_latents_are_inverse_and_valid(latent: VideoSize, ratios: CompressionRatios) -> None:
    pixels = pixel_size(latent, ratios)
    assert latent_size(pixels, ratios) == latent
    assert check_video_size(*pixels, ratios) == pixels


@given(st.integers(-100, 1000), positive)
def test_the_nearest_frame_counts_are_those_on_either_side(frames: int, ratio: int) -> None:
    valid = [count for count in range(1, 1200) if (count - 1) % ratio == 0]
    below = [count for count in valid if count <= frames][-1:]
    above = [count for count in valid if count >= frames][:1]
    assert nearest_valid_frames(frames, ratio) == tuple(dict.fromkeys(below + above))


@given(st.integers(-100, 1000), positive)
def test_the_nearest_sides_are_those_on_either_side(side: int, ratio: int) -> None:
    valid = range(ratio, 1200, ratio)
    below = [length for length in valid if length <= side][-1:]
    above = [length for length in valid if length >= side][:1]
    assert nearest_valid_side(side, ratio) == tuple(dict.fromkeys(below + above))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((17, 100, 96), "height must be .* 32 pixels; got 100; use 96 or 128"),
        ((17, 96, 31), "width must be .*; got 31; use 32$"),
        ((17, 0, 96), "height .*; got 0; use 32$"),
        ((18, 96, 96), r"frames must be 8k\+1 .*; got 18; use 17 or 25"),
        ((0, 96, 96), "got 0; use 1$"),
        ((-7, 96, 96), "got -7; use 1$"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_video_size(*size)


def test_the_ratios_are_those_that_are_given() -> None:
    ratios = CompressionRatios(4, 8, 16)
    assert check_video_size(5, 24, 48, ratios) == (5, 24, 48)
    with pytest.raises(InputError, match=r"4k\+1 \(1, 5, 9, ...\); got 6; use 5 or 9"):
        check_video_size(6, 24, 48, ratios)
    with pytest.raises(
        InputError, match="width must be a positive multiple of 16 pixels; got 24; use 16 or 32"
    ):
        check_video_size(5, 24, 24, ratios)
