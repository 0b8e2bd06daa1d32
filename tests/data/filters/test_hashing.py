"""Scenes that look the same, found by their fingerprints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.scenes import detailed, pan, scene_of
from PIL import Image

from ltx_diffusers.data.filters.hashing import Fingerprint, fingerprint, same_scenes
from ltx_diffusers.data.video import read_video, write_video


def shot(seed: int) -> np.ndarray:
    return pan(detailed(seed, cell=12), 16, 2.0)


def resized(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames])


def same(*shots: np.ndarray, seconds: list[float] | None = None) -> dict[int, int]:
    return same_scenes([fingerprint(scene_of(one)) for one in shots], seconds or [2.0] * len(shots))


def test_copies_are_found_whatever_was_done_to_them(tmp_path: Path) -> None:
    original = shot(1)
    encoded = read_video(write_video(tmp_path / "a.webm", original, 8))[0]
    small = resized(original, 64, 48)
    lighter = np.clip(original * 1.02 + 4, 0, 255).astype(np.uint8)
    noisy = np.clip(original + np.random.default_rng(0).normal(0, 6, original.shape), 0, 255).astype(np.uint8)
    assert same(original, encoded, small, lighter, noisy) == {1: 0, 2: 0, 3: 0, 4: 0}


def test_other_scenes_are_others() -> None:
    shots = [shot(seed) for seed in range(12)]
    original = shots[0]
    changed = [original[::-1], original[:, ::-1], original[:, :, ::-1], np.roll(original, 1, axis=-1)]
    assert same(*shots, *changed) == {}
    # The same pictures for another length of time.
    assert same(original, original, seconds=[2.0, 2.5]) == {}
    assert same(original, original, seconds=[2.0, 2.1]) == {1: 0}


def test_even_pictures_have_no_fingerprint() -> None:
    even = np.full((8, 36, 64, 3), 90, np.uint8)
    assert fingerprint(scene_of(even)) is None
    assert fingerprint(scene_of(even, thumbnails=even[:0])) is None
    assert same(even, even) == {}


def test_the_index_finds_what_comparing_all_pairs_finds() -> None:
    rng = np.random.default_rng(5)
    bases = [int.from_bytes(rng.bytes(24)) for _ in range(20)]
    prints = []
    for _ in range(300):
        bits = bases[rng.integers(20)]
        for place in rng.choice(192, rng.integers(0, 25), replace=False):
            bits ^= 1 << int(place)
        prints.append(Fingerprint(bits, tuple(int(c) for c in rng.integers(90, 104, 9))))
    expected: dict[int, int] = {}
    for number, one in enumerate(prints):
        firsts = (other for other in range(number) if other not in expected and one.is_like(prints[other]))
        first = next(firsts, None)
        if first is not None:
            expected[number] = first
    assert same_scenes(prints, [1.0] * 300) == expected
    assert 20 < len(expected) < 280


@pytest.mark.parametrize(("shift", "like"), [(12, True), (13, False)])
def test_colours_may_differ_by_a_little(shift: int, like: bool) -> None:
    one = Fingerprint(5, (100,) * 9)
    assert one.is_like(Fingerprint(5, (100,) * 8 + (100 + shift,))) is like
    assert not one.is_like(Fingerprint((1 << 12) - 1 << 20 ^ 5, (100,) * 9))
