"""The judge of moving-shapes on true, damaged and wrong clips."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from skimage.filters import gaussian

from ltx_diffusers.data.moving_shapes import (
    BACKGROUNDS,
    COLORS,
    MOTIONS,
    SHAPES,
    ClipSpec,
    render,
    sample_spec,
)
from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation.judge import Reading, ShapesJudge

SMALL, USUAL, LARGE = (9, 64, 64), (17, 96, 96), (25, 128, 128)
SPEC = ClipSpec("square", "red", "large", "black", "left", radius=0.28, start=(0.65, 0.5), travel=0.35)


@pytest.fixture(scope="module")
def judge() -> ShapesJudge:
    return ShapesJudge()


def to_bytes(frames: np.ndarray) -> np.ndarray:
    return (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)


def blur(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.stack([gaussian(frame, 2, channel_axis=-1) for frame in frames])


def noise(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return frames + rng.normal(0, 0.05, frames.shape)


def tint(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return frames + rng.uniform(-0.08, 0.08, 3)


def all_of_them(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return noise(blur(tint(frames, rng), rng), rng)


def shares_right(
    judge: ShapesJudge, count: int, size: tuple[int, int, int], damage: Callable | None = None
) -> dict[str, float]:
    rng = np.random.default_rng(1)
    right = Counter()
    for index in range(count):
        spec = sample_spec(rng, ("train", "held-out")[index % 2])
        frames = render(spec, *size)
        if damage is not None:
            frames = damage(frames, rng)
        right.update({name: int(value) for name, value in judge.read(to_bytes(frames)).right(spec).items()})
    return {name: value / count for name, value in right.items()}


@pytest.mark.parametrize("size", [SMALL, USUAL, LARGE], ids=str)
def test_true_clips_are_read_right(judge, size):
    shares = shares_right(judge, 40, size)
    assert shares["all"] >= 0.99
    assert shares["background"] >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, USUAL, LARGE], ids=str)
def test_a_thousand_true_clips_are_read_right(judge, size):
    shares = shares_right(judge, 1000, size)
    assert shares["all"] >= 0.99
    assert shares["background"] >= 0.99


@pytest.mark.parametrize("damage", [blur, noise, tint, all_of_them])
def test_damaged_clips_are_read_right(judge, damage):
    assert shares_right(judge, 40, USUAL, damage)["all"] >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("damage", [blur, noise, tint, all_of_them])
@pytest.mark.parametrize("size", [USUAL, LARGE], ids=str)
def test_five_hundred_damaged_clips_are_read_right(judge, damage, size):
    assert shares_right(judge, 500, size, damage)["all"] >= 0.97


@pytest.mark.parametrize("size", [(17, 96, 160), (17, 160, 96), (9, 288, 416)], ids=str)
def test_other_formats_are_read_right(judge, size):
    assert shares_right(judge, 15, size)["all"] >= 0.97


def test_every_word_of_the_world_can_be_read(judge):
    rng = np.random.default_rng(3)
    seen = {"shape": set(), "color": set(), "background": set(), "motion": set()}
    for _ in range(60):
        reading = judge.read(render(sample_spec(rng), *SMALL))
        for name, values in seen.items():
            values.add(getattr(reading, name))
    assert seen == {
        "shape": set(SHAPES),
        "color": set(COLORS),
        "background": set(BACKGROUNDS),
        "motion": set(MOTIONS),
    }


def test_the_figures_measure_the_clip(judge):
    frames = render(SPEC, *USUAL)
    reading = judge.read(frames)
    assert reading.right(SPEC) == dict.fromkeys(("shape", "color", "motion", "background", "all"), True)
    assert reading.displacement == pytest.approx((-0.35, 0), abs=0.01)
    assert reading.growth == pytest.approx(0, abs=0.02)
    assert reading.area == pytest.approx(
        2 * 0.28**2, rel=0.05
    )  # a square on a circle of radius r covers 2 r^2
    assert reading.presence == 1
    expected = np.column_stack([0.65 - 0.35 * np.linspace(0, 1, 17), np.full(17, 0.5)])
    np.testing.assert_allclose(reading.track, expected, atol=0.01)
    assert reading.color_distance < 0.03
    assert max(reading.shape_scores, key=reading.shape_scores.get) == "square"
    growing = judge.read(render(replace(SPEC, motion="grow", start=(0.5, 0.5), travel=0.0), *USUAL))
    assert growing.growth == pytest.approx(np.log(2), abs=0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "circle"},
        {"color": "orange"},
        {"background": "white"},
        {"motion": "right", "start": (0.35, 0.5)},
        {"motion": "still", "travel": 0.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_wrong_clip_is_wrong_in_just_that(judge, change):
    verdict = judge.read(render(replace(SPEC, **change), *USUAL)).right(SPEC)
    wrong = next(iter(change))
    assert not verdict[wrong]
    assert verdict["all"] == (wrong == "background")
    assert all(verdict[name] for name in ("shape", "color", "motion", "background") if name != wrong)


def test_bytes_and_floats_are_read_alike(judge):
    frames = render(SPEC, *USUAL)
    from_bytes, from_floats = judge.read(to_bytes(frames)), judge.read(frames.astype(np.float64))
    assert from_bytes.shape_scores == pytest.approx(from_floats.shape_scores, abs=0.02)
    assert from_bytes.motion == from_floats.motion


def garbage() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 96)[None, None, :, None] * np.ones((17, 96, 1, 3))
    return {
        "uniform noise": rng.random((*USUAL, 3)),
        "faint noise": np.clip(0.45 + rng.normal(0, 0.02, (*USUAL, 3)), 0, 1),
        "black": np.zeros((*USUAL, 3)),
        "gray": np.full((*USUAL, 3), 0.45),
        "ramp": ramp,
        "not a number": np.full((*USUAL, 3), np.nan),
        "one bad value": np.where(np.arange(17)[:, None, None, None] == 3, np.inf, render(SPEC, *USUAL)),
        "two objects": np.maximum(
            render(replace(SPEC, radius=0.15, start=(0.3, 0.2), travel=0.0), *USUAL),
            render(replace(SPEC, radius=0.15, start=(0.7, 0.8), travel=0.0), *USUAL),
        ),
    }


@pytest.mark.parametrize("name", garbage())
def test_garbage_is_never_right(judge, name):
    reading = judge.read(garbage()[name])
    assert reading.shape is None
    assert not reading.right(SPEC)["all"]


def test_an_empty_clip_has_no_names_but_its_background(judge):
    assert judge.read(np.zeros((*USUAL, 3))) == Reading(
        background="black", background_distance=pytest.approx(0.035, abs=0.01)
    )


def test_an_object_that_vanishes_is_not_read(judge):
    frames = render(SPEC, *USUAL)
    frames[8:] = frames[0, 0, 0]
    reading = judge.read(frames)
    assert reading.presence == pytest.approx(8 / 17)
    assert (reading.shape, reading.motion) == (None, None)


@pytest.mark.parametrize(
    "order", [[0, 4, 8, 12, 16, 12, 8, 4, 0], [0, 16] * 5], ids=["there and back", "flickering"]
)
def test_what_is_no_motion_of_the_world_has_none(judge, order):
    assert judge.read(render(SPEC, *USUAL)[order]).motion is None


def test_slantwise_and_growing_moves_have_no_name(judge):
    frames = render(SPEC, *USUAL)
    slantwise = np.stack([np.roll(frame, round(1.4 * index), axis=0) for index, frame in enumerate(frames)])
    assert judge.read(slantwise).motion is None
    growing = np.concatenate(
        [
            render(replace(SPEC, radius=radius, start=(x, 0.5), motion="still", travel=0.0), 1, 96, 96)
            for radius, x in zip(np.linspace(0.15, 0.3, 17), np.linspace(0.65, 0.35, 17), strict=True)
        ]
    )
    assert judge.read(growing).motion is None


def test_one_frame_has_a_shape_and_no_motion(judge):
    reading = judge.read(render(SPEC, 1, 96, 96))
    assert (reading.shape, reading.color, reading.motion) == ("square", "red", None)


@pytest.mark.parametrize("shape", [(96, 96, 3), (17, 96, 96), (17, 96, 96, 4), (0, 96, 96, 3)], ids=str)
def test_other_shapes_of_array_are_refused(judge, shape):
    with pytest.raises(InputError, match=r"expected \(F, H, W, 3\)"):
        judge.read(np.zeros(shape))


def test_values_outside_the_range_are_refused(judge):
    with pytest.raises(InputError, match="0 to 1"):
        judge.read(render(SPEC, *USUAL) * 255)


@pytest.mark.slow
def test_a_clip_is_read_in_thirty_milliseconds(judge):
    frames = [to_bytes(render(sample_spec(np.random.default_rng(seed)), *USUAL)) for seed in range(10)]
    times = []
    for clip in frames:
        begin = time.perf_counter()
        judge.read(clip)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.03
