"""The built-in filters, against what the pictures were made with."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.scenes import detailed, letterboxed, pan, scene_of
from PIL import Image
from skimage import data, measure
from skimage import filters as skfilters

from ltx_diffusers.data.filters.bars import bar_share, find_bars
from ltx_diffusers.data.filters.blur import BlurFilter, blur_of
from ltx_diffusers.data.filters.exposure import ExposureFilter
from ltx_diffusers.data.filters.facts import FactsFilter
from ltx_diffusers.data.filters.motion import MotionFilter
from ltx_diffusers.data.filters.scene import Scene

WIDTH = 128


def motion(frames: np.ndarray, frame_rate: float = 8.0) -> dict[str, float]:
    return MotionFilter()(scene_of(frames, frame_rate))


# motion


@pytest.mark.parametrize("cell", [6, 20])
@pytest.mark.parametrize("percent", [0.5, 2.0, 8.0, 16.0])
def test_motion_is_the_speed_of_a_pan(cell: int, percent: float) -> None:
    frames = pan(detailed(1, cell=cell), 12, percent / 100 * WIDTH / 8, WIDTH)
    found = motion(frames)
    # What is lost to noise counts most where soft pictures move slowly.
    is_faint = (percent, cell) == (0.5, 20)
    assert found["motion"] == pytest.approx(percent, rel=0.5 if is_faint else 0.3)
    assert found["still_share"] == is_faint


def test_contrast_and_frame_rate_do_not_matter() -> None:
    world = detailed(2, cell=12)
    frames = pan(world, 24, 0.4, WIDTH)
    pale = (frames * 0.3 + 90).astype(np.uint8)
    speed = motion(frames, 8.0)["motion"]
    assert motion(pale, 8.0)["motion"] == pytest.approx(speed, rel=0.3)
    assert motion(frames[::2], 4.0)["motion"] == pytest.approx(speed, rel=0.2)


def test_what_stands_still_does_not_move() -> None:
    still = np.repeat(pan(detailed(3), 1, 0), 16, axis=0)
    assert motion(still) == {"motion": 0.0, "still_share": 1.0}
    # Neither does light that grows, nor the last bit of a camera's noise.
    light = np.clip(still + np.linspace(0, 40, 16)[:, None, None, None], 0, 255).astype(np.uint8)
    assert motion(light)["motion"] < 0.5
    noisy = np.minimum(still, 250) + np.random.default_rng(0).integers(0, 2, still.shape).astype(np.uint8)
    assert motion(noisy)["motion"] < 0.1
    assert motion(np.full((16, 36, 64, 3), 90, np.uint8)) == {"motion": 0.0, "still_share": 1.0}


def test_an_object_counts_by_its_share_and_a_slide_show_is_still_most_of_the_time() -> None:
    whole = pan(detailed(4), 16, 1.0, WIDTH)
    part = np.repeat(whole[:1], 16, axis=0)
    part[:, :, :32] = whole[:, :, :32]
    assert motion(part)["motion"] == pytest.approx(motion(whole)["motion"] / 4, rel=0.3)
    slides = np.repeat(np.stack([detailed(seed)[:, :WIDTH] for seed in range(3)]), 24, axis=0)  # 3 s each
    assert motion(slides)["still_share"] == pytest.approx(1 - 2 * 4 / 68)


def test_what_has_no_motion() -> None:
    frames = pan(detailed(5), 2, 1.0)
    assert MotionFilter()(scene_of(frames[:1])) == {}
    assert MotionFilter()(scene_of(frames, is_picture=True)) == {}
    assert MotionFilter()(scene_of(frames))["motion"] > 1
    assert MotionFilter()(scene_of(frames[:, :1, :1]))["motion"] >= 0


# exposure and facts


def test_brightness_and_contrast() -> None:
    frames = np.zeros((4, 20, 40, 3), np.uint8)
    frames[:, :, 20:] = 255
    assert ExposureFilter()(scene_of(frames)) == pytest.approx({"brightness": 0.5, "contrast": 0.5}, abs=1e-6)
    green = np.zeros((2, 8, 8, 3), np.uint8)
    green[..., 1] = 255
    assert ExposureFilter()(scene_of(green))["brightness"] == pytest.approx(0.7152, abs=1e-4)
    assert ExposureFilter()(scene_of(frames, thumbnails=frames[:0])) == {}


def test_facts_of_a_video_and_a_picture() -> None:
    frames = np.zeros((12, 20, 40, 3), np.uint8)
    assert FactsFilter()(scene_of(frames, caption="a  red kite")) == {
        "seconds": 1.5,
        "frames": 12,
        "frame_rate": 8.0,
        "width": 40,
        "height": 20,
        "caption_words": 3,
    }
    assert set(FactsFilter()(scene_of(frames, is_picture=True))) == {"width", "height", "caption_words"}


# blur


def test_blur_grows_as_the_published_measure_does() -> None:
    picture = data.camera()
    softened = [picture] + [skfilters.gaussian(picture, sigma, preserve_range=True) for sigma in (1, 2, 4)]
    ours, theirs = [blur_of(one) for one in softened], [measure.blur_effect(one) for one in softened]
    assert ours == sorted(ours)
    # Theirs takes a smoothed derivative, which sees a little less detail from the start.
    np.testing.assert_allclose(ours, theirs, atol=0.11)
    enlarged = Image.fromarray(picture).resize((128, 128)).resize((512, 512), Image.Resampling.BICUBIC)
    assert blur_of(np.asarray(enlarged)) > blur_of(picture) + 0.2
    assert blur_of(picture // 4 + 60) == pytest.approx(blur_of(picture), abs=0.05)


def test_blur_in_one_direction_is_seen_and_an_even_picture_has_none() -> None:
    sharp = detailed(6, 64, 96, cell=2)[..., 0].astype(np.float32)
    smeared = np.stack([np.convolve(row, np.ones(9) / 9, "same") for row in sharp])
    assert blur_of(smeared) > blur_of(sharp) + 0.2
    assert blur_of(smeared.T) == blur_of(smeared)
    assert blur_of(np.full((40, 40), 7, np.uint8)) is None
    small = Scene(
        width=12, height=12, times=np.zeros(0), thumbnails=np.zeros((0, 1, 1, 3)), stills=(sharp[:12, :12],)
    )
    assert BlurFilter()(small) == {}


# bars


@pytest.mark.parametrize(
    ("bars", "box"),
    [
        ({"top": 20, "bottom": 20}, (0, 22, 128, 92)),
        ({"left": 15, "right": 9}, (18, 0, 122, 96)),
        ({"top": 10, "bottom": 12, "left": 20, "right": 20}, (22, 12, 124, 92)),
        ({"bottom": 7}, (0, 0, 128, 94)),
        ({}, None),
    ],
)
def test_bars_are_found_to_the_pixel(bars: dict[str, int], box: tuple | None) -> None:
    noise = np.random.default_rng(0).integers(0, 12, (4, 1, 1, 1))
    frames = np.clip(letterboxed(pan(detailed(7), 4, 3), **bars) + noise, 0, 255).astype(np.uint8)
    scene = scene_of(frames)
    assert find_bars(scene) == box
    if box is None:
        assert bar_share(scene, None) == 0
        return
    left, top, width, height = box
    assert (left % 2, top % 2, width % 2, height % 2) == (0, 0, 0, 0)
    seen = scene.cropped(box)
    assert (seen.width, seen.height) == (width, height) == seen.stills[0].shape[::-1]
    assert seen.stills[0].min(axis=0).max() > 30  # no black column or row is left
    assert find_bars(seen) is None
    assert bar_share(scene, box) == pytest.approx(1 - width * height / (frames.shape[1] * frames.shape[2]))


def test_dark_pictures_are_no_bars() -> None:
    black = np.zeros((4, 90, 160, 3), np.uint8)
    assert find_bars(scene_of(black)) is None
    # A lamp in the night: dark rows above, but without an edge that goes across.
    lamp = black.copy()
    lamp[:, 40:60, 70:90] = 220
    assert find_bars(scene_of(lamp)) is None
    # Light that falls off towards the edge.
    vignette = black + np.clip(np.linspace(-60, 90, 90), 0, 255)[:, None, None].astype(np.uint8)
    assert find_bars(scene_of(vignette)) is None
    # A strip that is mostly bars isn't taken for a picture; one bright still shows that a bar is none.
    strip = letterboxed(pan(detailed(8, 20), 4, 3), 40, 40)
    assert find_bars(scene_of(strip)) is None
    once = letterboxed(pan(detailed(9), 4, 3), 20, 20)
    once[-1] = 200
    assert find_bars(scene_of(once)) is None
    assert find_bars(scene_of(once, stills=())) is None


def test_a_logo_within_a_bar_does_not_hide_it() -> None:
    frames = letterboxed(pan(detailed(10, width=500), 4, 3, width=400), 30, 30)
    frames[:, 10:18, 5:12] = 255
    assert find_bars(scene_of(frames)) == (0, 32, 400, 92)


def test_a_crop_of_thumbnails_keeps_no_pixel_of_what_is_outside() -> None:
    frames = letterboxed(np.full((2, 60, 100, 3), 200, np.uint8), top=15, left=5)
    small = frames[:, ::3, ::3]
    scene = scene_of(frames, thumbnails=small).cropped((5, 15, 100, 60))
    assert scene.thumbnails.min() == 200 and scene.thumbnails.shape[1:3] == (20, 33)
    tiny = scene_of(frames, thumbnails=small[:, :2, :2]).cropped((50, 40, 4, 4))
    assert tiny.thumbnails.shape == (2, 1, 1, 3)
