"""Clips with references and masks: outlines of moving-shapes, and the columns of a list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ltx_diffusers.data.moving_shapes import COLORS, SHAPES, render, render_outline, sample_spec
from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.errors import InputError


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_runs_where_the_shape_ends(shape: str) -> None:
    rng = np.random.default_rng(3)
    spec = replace(sample_spec(rng), shape=shape, motion="grow", background="black", color="yellow")
    size = (5, 128, 128)
    line = render_outline(spec, *size)
    assert line.shape == (*size, 3) and line.dtype == np.float32
    assert np.ptp(line, axis=3).max() == 0 and line.max() == 1 and (line == 0).mean() > 0.8
    cover = render(spec, *size)[..., 0] / COLORS["yellow"][0]
    inside, outside = cover > 0.99, cover < 0.03
    assert (line[..., 0][outside].mean() < 0.02) and (line[..., 0][inside].mean() < 0.5)
    # The line's middle is where the shape covers half, and nothing of it lies far from there (corners stick out).
    on_edge = (cover > 0.35) & (cover < 0.65)
    assert line[..., 0][on_edge].min() > 0.9
    drawn = line[..., 0] > 0
    near = np.zeros_like(drawn)
    for down in range(-5, 6):
        for right in range(-5, 6):
            near |= np.roll(on_edge, (down, right), (1, 2))
    assert not (drawn & ~near).any()
    per_frame = drawn.sum(axis=(1, 2))
    assert (np.diff(per_frame) > 0).all()  # it grows


def test_shape_clips_have_the_outline_that_was_asked_for() -> None:
    plain, given = ShapeClips(9, 32, 64), ShapeClips(9, 32, 64, reference="outline")
    assert plain[3].references == () and repr(plain) != repr(given)
    np.testing.assert_array_equal(plain[3].frames, given[3].frames)
    (outline,) = given[3].references
    np.testing.assert_array_equal(outline, render_outline(given[3].spec, 9, 32, 64))
    assert given.with_size(1)[3].references[0].shape == (1, 32, 64, 3)
    with pytest.raises(InputError, match=r"no such reference.*'edges'.*outline"):
        ShapeClips(reference="edges")
