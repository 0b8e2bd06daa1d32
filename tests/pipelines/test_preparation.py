"""Preparation of pictures and clips: sizes, blur, H.264, against closed forms and the official pipeline."""

import ctypes

import numpy as np
import pytest
import torch
from PIL import Image

from ltx_diffusers import ReferenceVideo, VideoCondition
from ltx_diffusers.errors import InputError
from ltx_diffusers.geometry import CompressionRatios, VideoSize
from ltx_diffusers.pipelines.media import checked_conditions, prepared_pixels, structure
from ltx_diffusers.pipelines.preparation import compressed, prepare_clip, prepare_image

M_PERTURB = -6


def photo(height=96, width=128, seed=0):
    """Something with edges, gradients and grain."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 128 + 90 * np.sin(rows / 7)[..., None] * np.cos(columns / 11)[..., None] * [1, 0.6, -0.8]
    grain = np.random.default_rng(seed).normal(0, 8, (height, width, 3))
    return (waves + grain).clip(0, 255).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


def halves(height, width, axis):
    """Left (or top) red, the rest green."""
    pixels = np.zeros((height, width, 3), np.uint8)
    first = (slice(None), slice(0, width // 2)) if axis else (slice(0, height // 2), slice(None))
    pixels[..., 1] = 200
    pixels[first] = (200, 0, 0)
    return pixels


def test_a_picture_of_the_size_is_left_as_it_is():
    picture = photo()
    for fit in ("crop", "pad", "stretch"):
        assert np.array_equal(prepare_image(picture, 96, 128, fit=fit), picture)


@pytest.mark.parametrize(
    "picture",
    [
        photo(40, 64),
        Image.fromarray(photo(40, 64)),
        torch.from_numpy(photo(40, 64)).permute(2, 0, 1),
        photo(40, 64) / 255,
    ],
    ids=["array", "pil", "tensor", "float"],
)
def test_every_kind_of_picture_gives_the_same(picture):
    result = prepare_image(picture, 32, 32)
    assert result.dtype == np.uint8 and result.shape == (32, 32, 3)
    assert np.array_equal(result, prepare_image(photo(40, 64), 32, 32))


def test_crop_keeps_the_middle_and_the_proportions():
    wide = prepare_image(halves(32, 128, axis=1), 64, 64, fit="crop")
    assert (wide[:, :29, 0] == 200).all() and (wide[:, 35:, 1] == 200).all()  # bicubic filters swing over
    disc = np.zeros((200, 100, 3), np.uint8)
    rows, columns = np.mgrid[0:200, 0:100]
    disc[(rows - 100) ** 2 + (columns - 50) ** 2 < 30**2] = 255
    inside = prepare_image(disc, 64, 128, fit="crop")[..., 0] > 127
    assert abs(np.ptp(np.nonzero(inside)[1]) + 1 - 76) <= 1  # 59 of 100 columns, of 128 then
    assert np.ptp(np.nonzero(inside)[0]) + 1 == 64  # cut above and below


def test_pad_shows_everything_between_black_bars():
    result = prepare_image(np.full((32, 128, 3), 200, np.uint8), 64, 64, fit="pad")
    assert (result[:24] == 0).all() and (result[24:40] == 200).all() and (result[40:] == 0).all()
    tall = prepare_image(np.full((128, 32, 3), 200, np.uint8), 64, 64, fit="pad")
    assert np.array_equal(tall, result.transpose(1, 0, 2))


def test_stretch_distorts():
    result = prepare_image(halves(32, 128, axis=1), 64, 64, fit="stretch")
    assert (result[:, :30, 0] == 200).all() and (result[:, 34:, 1] == 200).all()


def test_blur_is_a_gaussian_cut_off_at_one_deviation():
    point = np.zeros((9, 9, 3), np.uint8)
    point[4, 4] = 255
    side = np.exp(-0.5) / (1 + 2 * np.exp(-0.5))
    kernel = np.array([side, 1 - 2 * side, side])
    result = prepare_image(point, 9, 9, blur=1.0)
    assert np.array_equal(result[3:6, 3:6, 0], np.round(255 * np.outer(kernel, kernel)))
    assert result[..., 0].sum() == result[3:6, 3:6, 0].sum()
    flat = np.full((6, 4, 3), 77, np.uint8)
    assert (prepare_image(flat, 6, 4, blur=9.0) == 77).all()


@pytest.mark.parametrize("crf", [10, 29, 40])
def test_h264_has_the_official_bits(crf):
    official = pytest.importorskip("ltx_video.pipelines.crf_compressor")
    picture = photo()
    # Half a level more, because the official code cuts off what is behind the point.
    theirs = official.compress((torch.from_numpy(picture).double() + 0.5) / 255, crf)
    theirs = (theirs * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(prepare_image(picture, 96, 128, crf=crf), theirs)


def test_more_compression_loses_more():
    picture = photo()
    quality = [psnr(compressed(picture, crf), picture) for crf in (1, 20, 29, 40, 51)]
    assert quality == sorted(quality, reverse=True) and quality[0] > quality[-1] + 5


def test_h264_is_off_at_0_and_takes_odd_sizes():
    picture = photo(33, 47)
    assert np.array_equal(prepare_image(picture, 33, 47, crf=0), picture)
    assert prepare_image(picture, 33, 47, crf=1).shape == (33, 47, 3)
    assert psnr(prepare_image(picture, 33, 47, crf=1), picture) > 25


def test_h264_reads_no_memory_that_nobody_wrote():
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("needs glibc")
    results = []
    try:
        for value in (1, 170):
            mallopt(M_PERTURB, value)  # fresh memory is filled with this byte
            results.append(compressed(photo(), 29))
    finally:
        mallopt(M_PERTURB, 0)
    assert np.array_equal(*results)


def test_a_clip_is_its_pictures():
    frames = [photo(50, 70, seed) for seed in range(3)]
    clip = prepare_clip(frames, 32, 64, fit="pad", blur=0.7, crf=20)
    expected = [prepare_image(frame, 32, 64, fit="pad", blur=0.7, crf=20) for frame in frames]
    assert np.array_equal(clip, np.stack(expected))
    assert np.array_equal(prepare_clip(np.stack(frames), 32, 64, 2), prepare_clip(frames[:2], 32, 64))


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (24, 24, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (24, 12, [0, 2, 4, 6, 8]),
        (12, 24, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]),
        (30, 24, [0, 1, 3, 4, 5, 6, 8]),
    ],
)
def test_a_clip_keeps_its_speed_at_another_frame_rate(source, target, expected):
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    clip = prepare_clip(frames, 2, 2, frame_rate=target, source_rate=source)
    assert clip[:, 0, 0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": "zoom"}, "fit"),
        ({"blur": -1}, "blur"),
        ({"blur": float("nan")}, "blur"),
        ({"crf": 52}, "crf"),
        ({"crf": 29.5}, "crf"),
        ({"crf": True}, "crf"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    for prepare, media in ((prepare_image, photo()), (prepare_clip, [photo()])):
        with pytest.raises(InputError, match=message):
            prepare(media, 32, 32, **settings)


def test_bad_pictures_and_clips_are_refused():
    with pytest.raises(InputError, match="height"):
        prepare_image(photo(), 0, 32)
    with pytest.raises(InputError, match="prepare_clip"):
        prepare_image([photo(), photo()], 32, 32)
    with pytest.raises(InputError, match="too short"):
        prepare_clip([photo()] * 3, 32, 32, 9)
    with pytest.raises(InputError, match="source_rate"):
        prepare_clip([photo()] * 3, 32, 32, frame_rate=24)
    with pytest.raises(InputError, match="no image"):
        prepare_clip([], 32, 32)


SIZE, RATIOS = VideoSize(33, 64, 96), CompressionRatios(8, 32, 32)


def shown(condition):
    """What the VAE would see, as uint8 (F, H, W, 3)."""
    (checked,) = checked_conditions([condition], SIZE, RATIOS)
    pixels = prepared_pixels(checked, SIZE)
    return ((pixels.permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8).numpy()


def test_conditions_are_prepared_as_they_ask():
    picture, clip = photo(100, 80), [photo(40, 90, seed) for seed in range(9)]
    official = {"fit": "crop", "blur": 1.0, "crf": 29}
    expected = prepare_image(picture, 64, 96, **official)
    assert np.array_equal(shown(VideoCondition(image=picture, **official))[0], expected)
    expected = prepare_clip(clip, 64, 96, fit="pad", crf=20)
    assert np.array_equal(shown(VideoCondition(video=clip, fit="pad", crf=20)), expected)
    expected = prepare_clip(clip, 32, 32, fit="pad")
    small = VideoSize(33, 64, 64)
    (checked,) = checked_conditions([ReferenceVideo(clip, scale=2, fit="pad")], small, RATIOS)
    assert np.array_equal(
        ((prepared_pixels(checked, small)[:, 0] + 1) * 127.5).round()[0], expected[0, ..., 0]
    )


def test_a_placed_picture_keeps_its_size_and_may_be_compressed():
    picture = photo(64, 64)
    placed = shown(VideoCondition(image=picture, place=(0, 0), crf=29))
    assert np.array_equal(placed[0], compressed(picture, 29)) and not np.array_equal(placed[0], picture)
    with pytest.raises(InputError, match="keeps its own size"):
        shown(VideoCondition(image=picture, place=(0, 0), fit="crop"))


def test_without_preparation_pictures_are_stretched_as_before():
    picture = Image.fromarray(photo(100, 80))
    expected = np.array(picture.resize((96, 64), Image.Resampling.LANCZOS))
    assert np.array_equal(shown(VideoCondition(image=picture))[0], expected)
    with pytest.raises(InputError, match="size of the video"):
        shown(VideoCondition(video=[photo(40, 90)] * 9))


@pytest.mark.parametrize(
    "condition",
    [
        VideoCondition(image=photo(), fit="zoom"),
        VideoCondition(image=photo(), crf=99),
        ReferenceVideo([photo()] * 9, blur=-1),
        ReferenceVideo([photo(40, 40)] * 9),
        ReferenceVideo([photo(40, 40)] * 9, fit="crop", scale=3),
        ReferenceVideo([photo()] * 9, scale=0),
    ],
)
def test_bad_preparation_of_a_condition_is_refused(condition):
    with pytest.raises(InputError):
        checked_conditions([condition], SIZE, RATIOS)


def test_fitted_media_of_other_sizes_make_one_batch():
    lists = [
        checked_conditions([VideoCondition(video=[photo(*sides)] * 9, fit="crop")], SIZE, RATIOS)
        for sides in ((40, 90), (80, 80))
    ]
    assert structure(lists[0]) == structure(lists[1])
