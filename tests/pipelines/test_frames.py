"""Frames as users take them: each way equals the plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.video_processor import VideoProcessor

from ltx_diffusers.pipelines import frames
from ltx_diffusers.pipelines.frames import to_bytes, to_output

SHAPE = (2, 3, 5, 6, 7)
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def made(dtype: torch.dtype) -> torch.Tensor:
    """Videos with values outside of [-1, 1], too."""
    return (torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 1.2).to(dtype)


def plain(video: torch.Tensor) -> np.ndarray:
    """(B, F, H, W, 3) in [0, 255], in double precision."""
    return ((video.double().permute(0, 2, 3, 4, 1) / 2 + 0.5).clamp(0, 1) * 255).numpy()


def in_memory(video: torch.Tensor, order: str) -> torch.Tensor:
    """The same videos, laid out otherwise."""
    if order == "channels last":
        return video.to(memory_format=torch.channels_last_3d)
    return video.repeat_interleave(2, dim=2)[:, :, ::2] if order == "every other frame" else video


ORDERS = ["plain", "channels last", "every other frame"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_are_the_nearest_levels(dtype, order):
    video = in_memory(made(dtype), order)
    before, exact = video.clone(), plain(video)
    pixels = to_bytes(video)
    assert (pixels.dtype, pixels.shape, pixels.flags.c_contiguous) == (np.uint8, (2, 5, 6, 7, 3), True)
    assert np.abs(pixels - exact).max() <= 0.5 + 1e-4
    assert torch.equal(video, before)
    assert np.array_equal(next(to_output(video, "stream")), pixels)
    clips = to_output(video, "pil")
    assert np.array_equal(np.stack([np.stack(clip) for clip in clips]), pixels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_made_on_another_device_are_the_same(dtype, monkeypatch):
    """The same functions on the CPU."""
    monkeypatch.setattr(frames, "_ON_DEVICE", 2 * 3 * 6 * 7)  # two frames at once, of five
    video = made(dtype)
    target = np.empty((5, 6, 7, 3), np.uint8)
    frames._bytes_from_device(video[0], target)
    assert np.array_equal(target, to_bytes(video)[0])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arrays_are_those_of_the_plain_arithmetic(dtype, order, overwrite):
    video = in_memory(made(dtype), order)
    before, exact = video.clone(), plain(video)
    array = to_output(video, "np", overwrite)
    assert (array.dtype, array.shape) == (np.float32, (2, 5, 6, 7, 3))
    np.testing.assert_allclose(array * 255, exact, atol=1e-4)
    assert overwrite or torch.equal(video, before)
    assert np.shares_memory(array, video.float().numpy()) == (overwrite and dtype == torch.float32)


def test_frames_are_those_of_diffusers():
    video, theirs = made(torch.float32), VideoProcessor(vae_scale_factor=32)
    np.testing.assert_allclose(to_output(video, "np"), theirs.postprocess_video(video, "np"), atol=1e-6)
    torch.testing.assert_close(to_output(video, "pt"), theirs.postprocess_video(video, "pt"))
    ours = np.stack([np.stack(clip) for clip in to_output(video, "pil")]).astype(int)
    expected = np.stack([np.stack(clip) for clip in theirs.postprocess_video(video, "pil")])
    assert np.abs(ours - expected).max() <= 1
    assert (ours == expected).mean() > 0.99


def test_levels_survive_the_way_there_and_back():
    levels = torch.arange(256, dtype=torch.float32)
    for dtype in (torch.float32, torch.float16):
        video = (levels / 127.5 - 1).to(dtype).view(1, 1, 1, 16, 16).expand(1, 3, 1, 16, 16)
        assert np.array_equal(to_bytes(video)[0, 0, ..., 0].reshape(-1), levels.numpy())


def test_pictures_are_their_own():
    first, second = to_output(made(torch.float32), "pil")[0][:2]
    before = np.array(second)
    first.paste((1, 2, 3), (0, 0, 7, 6))
    assert np.array_equal(np.array(second), before)


def test_gradients_are_left_behind():
    video = made(torch.float32).requires_grad_()
    assert to_output(video, "np", overwrite=True).shape == (2, 5, 6, 7, 3)
    assert to_bytes(video).shape == (2, 5, 6, 7, 3)
