"""Detectors of cuts: every cut, to the frame, and nothing else."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from helpers.scenes import detailed, pan

from ltx_diffusers.data.filters.cuts import CutDetector, HistogramCuts, NoCuts, cut_detector
from ltx_diffusers.errors import InputError


def found(detector: CutDetector, *shots: np.ndarray) -> list[int]:
    frames = [frame for shot in shots for frame in shot]
    return [number for frame in frames for number in detector.add(frame)] + detector.finish()


def shots(*lengths: int, speed: float = 0.7) -> list[np.ndarray]:
    return [pan(detailed(seed), length, speed) for seed, length in enumerate(lengths)]


def test_every_cut_is_found_to_the_frame() -> None:
    assert found(HistogramCuts(), *shots(20, 13, 30, 8)) == [20, 33, 63]
    # Short shots, at the start and at the end too.
    assert found(HistogramCuts(), *shots(2, 15, 2)) == [2, 17]
    assert found(HistogramCuts(), *shots(30)) == []
    assert found(HistogramCuts()) == []


def test_a_cut_between_pictures_of_the_same_colours_is_found() -> None:
    world = detailed(1)
    # The same view upside down has exactly its colours.
    assert found(HistogramCuts(), pan(world, 12, 0.5), pan(world[::-1, ::-1], 12, 0.5)) == [12]


@pytest.mark.parametrize("speed", [0, 2, 6, 12])
def test_fast_motion_is_no_cut(speed: float) -> None:
    assert found(HistogramCuts(), pan(detailed(3, cell=12), 20, speed)) == []


def test_a_flash_and_a_fade_are_no_cuts() -> None:
    frames = pan(detailed(4), 40, 0.5)
    flash = frames.copy()
    flash[18:21] = 250
    assert found(HistogramCuts(), flash) == []
    fade = (frames * np.linspace(1, 0, 40)[:, None, None, None]).astype(np.uint8)
    assert found(HistogramCuts(), fade) == []
    # Even colours that creep over the edges of the histograms' bins.
    creeping = np.broadcast_to(np.arange(60, 100)[:, None, None, None], (40, 36, 64, 3)).astype(np.uint8)
    assert found(HistogramCuts(), creeping) == []


def test_numbers_are_told_with_the_lag_that_is_promised() -> None:
    detector = HistogramCuts(reach=4)
    told = [
        (number, cut)
        for number, frame in enumerate(np.concatenate(shots(10, 10)))
        for cut in detector.add(frame)
    ]
    assert told == [(14, 10)]


def test_a_higher_threshold_finds_less() -> None:
    world = detailed(5).astype(float)
    close = [pan(np.clip(world + shift, 0, 255).astype(np.uint8), 10, 0.3) for shift in (0, 14)]
    assert found(cut_detector("histogram", None, 24.0), *close) == [10]
    assert found(cut_detector("histogram", 0.2, 24.0), *close) == []
    assert found(cut_detector("none", None, 24.0), *shots(9, 9)) == [] == NoCuts().finish()


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3)])
def test_any_size_can_be_watched(size: tuple[int, int]) -> None:
    frames = [np.full((10, *size, 3), value, np.uint8) for value in (20, 200)]
    assert found(HistogramCuts(), *frames) == [10]


def test_pyscenedetect_finds_the_same_cuts() -> None:
    pytest.importorskip("scenedetect")
    made = shots(20, 25, 30)
    assert (
        found(cut_detector("pyscenedetect", None, 24.0), *made) == [20, 45] == found(HistogramCuts(), *made)
    )
    assert found(cut_detector("pyscenedetect", 250.0, 24.0), *made) == []
    assert found(cut_detector("pyscenedetect", None, 24.0)) == []


@pytest.mark.parametrize("version", [None, "0.6.4"])
def test_pyscenedetect_missing_or_old(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    module = None
    if version is not None:
        module = ModuleType("scenedetect")
        module.__version__ = version
    monkeypatch.setitem(sys.modules, "scenedetect", module)
    with pytest.raises(InputError, match="scenes|0.7 or newer"):
        cut_detector("pyscenedetect", None, 24.0)


@pytest.mark.parametrize(("name", "threshold"), [("histgram", None), ("histogram", 0.0), ("none", -1.0)])
def test_bad_settings(name: str, threshold: float | None) -> None:
    with pytest.raises(InputError):
        cut_detector(name, threshold, 24.0)
