"""The world of moving-shapes: seeded, inside the frame, split for good, worded from its vocabulary, drawn truly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ltx_diffusers.data.moving_shapes import (
    BACKGROUNDS,
    COLORS,
    MOTIONS,
    NEW_MOTIONS,
    SHAPES,
    SIZES,
    ClipSpec,
    caption,
    combinations,
    moment,
    render,
    sample_spec,
    signed_distance,
    split_of,
    vocabulary,
)
from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.data.texture import draw_texture
from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation.judge import ShapesJudge

SPLITS = ("train", "held-out")
# Area of each shape on a circle of radius 1: pi, a square of diagonal 2, an equilateral triangle, and a cross of five
# squares, whose side a has (3a/2)^2 + (a/2)^2 = 1.
AREAS = {"circle": np.pi, "square": 2.0, "triangle": 0.75 * np.sqrt(3), "cross": 2.0}
BLACK_RED = {"color": "red", "size": "large", "background": "black"}


def draw(count: int, split: str = "train", seed: int = 0) -> list[ClipSpec]:
    rng = np.random.default_rng(seed)
    return [sample_spec(rng, split) for _ in range(count)]


def cover_of(spec: ClipSpec, frames: np.ndarray) -> np.ndarray:
    """Share of each pixel (F, H, W) that the shape covers, from its colours."""
    ground, ink = np.asarray(BACKGROUNDS[spec.background]), np.asarray(COLORS[spec.color])
    return (frames - ground) @ (ink - ground) / ((ink - ground) @ (ink - ground))


def test_a_seed_gives_the_same_clips_and_another_seed_others():
    assert draw(20) == draw(20)
    assert draw(20) != draw(20, seed=1)
    spec = draw(1)[0]
    np.testing.assert_array_equal(render(spec, 9, 64, 64), render(spec, 9, 64, 64))
    worded = [caption(spec, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3)]
    assert worded[0] == worded[1]
    assert len(set(worded)) > 1


def test_every_word_is_drawn():
    specs = draw(400)
    for name, table in (
        ("shape", SHAPES),
        ("color", COLORS),
        ("size", SIZES),
        ("background", BACKGROUNDS),
        ("motion", MOTIONS),
    ):
        assert {getattr(spec, name) for spec in specs} == set(table)


def test_the_splits_are_disjoint_and_whole():
    train, held_out = (set(combinations(split)) for split in SPLITS)
    assert not train & held_out
    assert len(train) + len(held_out) == len(SHAPES) * len(COLORS) * len(MOTIONS)
    assert 0.08 < len(held_out) / (len(train) + len(held_out)) < 0.2


@pytest.mark.parametrize("split", SPLITS)
def test_draws_stay_in_their_split(split):
    for spec in draw(300, split):
        assert split_of(spec.shape, spec.color, spec.motion) == split


def test_each_pair_of_a_held_out_combination_is_trained_on():
    train = combinations("train")
    for held_out in combinations("held-out"):
        for left, right in ((0, 1), (0, 2), (1, 2)):
            assert any(seen[left] == held_out[left] and seen[right] == held_out[right] for seen in train)


def test_an_unknown_split_or_shape_is_refused():
    with pytest.raises(InputError, match="held-out"):
        combinations("test")
    with pytest.raises(InputError, match="triangle"):
        signed_distance("star", np.zeros(1), np.zeros(1), np.ones(1))


@pytest.mark.parametrize("split", SPLITS)
def test_the_whole_shape_stays_inside_every_frame(split):
    for spec in draw(150, split, seed=2):
        cover = cover_of(spec, render(spec, 5, 64, 64))
        # An edge may touch the border with half of its soft rim.
        border = np.concatenate(
            [cover[:, 0].ravel(), cover[:, -1].ravel(), cover[:, :, 0].ravel(), cover[:, :, -1].ravel()]
        )
        assert border.max() < 0.75
        whole = AREAS[spec.shape] * (min(moment(spec, end).radius for end in (0, 1)) * 64) ** 2
        assert cover.sum(axis=(1, 2)).min() > 0.96 * whole


@pytest.mark.parametrize("size", [(96, 96), (128, 160), (160, 96)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_drawn_area_is_the_shapes(shape, size):
    spec = ClipSpec(shape, **BLACK_RED, motion="still", radius=0.3, start=(0.47, 0.52), travel=0.0)
    drawn = cover_of(spec, render(spec, 1, *size)).sum()
    assert drawn == pytest.approx(AREAS[shape] * (0.3 * min(size)) ** 2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_soft(shape):
    spec = ClipSpec(shape, **BLACK_RED, motion="still", radius=0.3, start=(0.473, 0.529), travel=0.0)
    cover = cover_of(spec, render(spec, 1, 96, 96))
    assert cover.min() == pytest.approx(0, abs=1e-6)
    assert cover.max() == pytest.approx(1, abs=1e-6)
    partly = ((cover > 0.05) & (cover < 0.95)).sum()
    outline = 2 * np.pi * 0.3 * 96
    assert partly > 0.8 * outline
    # Half a pixel's step of the shape changes no pixel by more than the rim allows.
    nudged = cover_of(spec, render(replace(spec, start=(0.473 + 0.5 / 96, 0.529)), 1, 96, 96))
    assert np.abs(nudged - cover).max() < 0.75


@pytest.mark.parametrize("motion", MOTIONS)
def test_motion_is_steady_and_what_its_name_says(motion):
    spec = next(spec for spec in draw(400) if spec.motion == motion)
    cover = cover_of(spec, render(spec, 17, 96, 96))
    area = cover.sum(axis=(1, 2))
    pixels = np.arange(96) + 0.5
    x, y = (cover.sum(axis=1) @ pixels) / area, (cover.sum(axis=2) @ pixels) / area
    radius = np.sqrt(area / AREAS[spec.shape])

    toward = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(motion, (0, 0))
    path = np.stack([x, y], axis=1)
    expected = path[0] + np.linspace(0, 1, 17)[:, None] * np.array(toward) * spec.travel * 96
    np.testing.assert_allclose(path, expected, atol=0.25)
    assert (spec.travel > 0) == any(toward)
    assert radius[-1] / radius[0] == pytest.approx({"grow": 2, "shrink": 0.5}.get(motion, 1), rel=0.04)
    assert np.abs(np.diff(radius, n=2)).max() < 0.2  # it grows evenly


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("motion", MOTIONS)
def test_a_moment_is_a_frame_of_the_clip(motion, progress):
    spec = next(spec for spec in draw(400, seed=4) if spec.motion == motion)
    clip = render(spec, 9, 64, 64)
    np.testing.assert_allclose(
        render(moment(spec, progress), 1, 64, 64)[0], clip[round(progress * 8)], atol=1e-4
    )


def test_captions_use_the_vocabulary_alone_and_all_of_it():
    rng = np.random.default_rng(0)
    used = set()
    for spec in draw(3000):
        for text in (caption(spec), caption(spec, rng)):
            used.update(text.replace(",", " ,").split())
    assert used == set(vocabulary())


def test_captions_say_what_the_clip_shows():
    rng = np.random.default_rng(0)
    for spec in draw(100):
        plain = caption(spec)
        assert plain.startswith(("a ", "an "))
        for word in (spec.color, spec.background, spec.size):
            assert word in plain.split()
        assert spec.color in caption(spec, rng).split()


def test_the_plain_caption_is_fixed():
    spec = ClipSpec("cross", "orange", "small", "gray", "still", radius=0.2, start=(0.5, 0.5), travel=0.0)
    assert caption(spec) == "a small orange cross standing still on a gray background"


def test_weighted_shapes_come_more_often():
    rng = np.random.default_rng(0)
    weights = {"cross": 3.0, "circle": 0.5}
    shapes = [sample_spec(rng, "train", weights).shape for _ in range(4000)]
    assert shapes.count("cross") / 4000 == pytest.approx(3 / 5.5, abs=0.03)
    assert shapes.count("circle") / 4000 == pytest.approx(0.5 / 5.5, abs=0.02)
    clips = ShapeClips(shape_weights={"cross": 1e9})
    assert {clips[number].spec.shape for number in range(3)} == {"cross"}
    assert any(word in clips.caption(0, rng) for word in ("cross", "plus sign"))


@pytest.mark.parametrize("weights", [{"star": 1.0}, {"cross": 0.0}, {"cross": float("nan")}])
def test_weights_of_no_shape_are_refused(weights):
    with pytest.raises(InputError, match="shape_weights"):
        ShapeClips(shape_weights=weights)


def test_texture_leaves_the_clip_readable_and_moves_with_the_shape():
    plain, textured = (ShapeClips(9, 64, 64, split="held-out", texture=texture) for texture in (0.0, 0.15))
    for index in range(20):
        clip, same = plain[index], textured[index]
        assert (clip.spec, clip.caption) == (same.spec, same.caption)
        difference = np.abs(clip.frames - same.frames)
        assert 0.02 < difference.max() <= 0.15 + 1e-6
        assert ShapesJudge().read(same.frames).right(clip.spec)["all"]
    assert not np.array_equal(textured[0].frames[0, 0, 0], textured[1].frames[0, 0, 0])
    spec = replace(textured[0].spec, motion="right", start=(0.3, 0.5), travel=0.25, radius=0.2)
    textures = tuple(draw_texture(np.random.default_rng(seed), 0.15) for seed in (1, 2))
    frames = render(spec, 9, 64, 64, textures)
    # A sixteenth of the travel is two pixels: the middle of the shape, with its pattern, goes along.
    np.testing.assert_allclose(frames[0, 28:36, 16:22], frames[8, 28:36, 32:38], atol=1e-5)
    np.testing.assert_array_equal(frames[0, :4], frames[8, :4])


def test_a_texture_out_of_range_is_refused():
    with pytest.raises(InputError, match="texture"):
        ShapeClips(texture=1.5)


def test_new_motions_are_drawn_where_they_are_asked_for_alone():
    usual, new = ShapeClips(9, 64, 64), ShapeClips(9, 64, 64, motions=NEW_MOTIONS)
    assert {usual[index].spec.motion for index in range(60)} == set(MOTIONS)
    for index in range(30):
        clip = new[index]
        assert clip.spec.motion == "diagonal" and "diagonally" in clip.caption
        assert ShapesJudge().read(clip.frames).right(clip.spec)["all"]
        first, last = (moment(clip.spec, progress).start for progress in (0, 1))
        np.testing.assert_allclose(np.subtract(last, first), clip.spec.travel)
    assert "diagonally" not in vocabulary()
    assert set(combinations("train", NEW_MOTIONS)).isdisjoint(combinations("held-out", NEW_MOTIONS))
    with pytest.raises(InputError, match="sideways"):
        ShapeClips(motions=("sideways",))
