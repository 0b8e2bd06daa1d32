"""Sets measured: in order, on several processes, kept in a file, and going on after any end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import ClassVar

import pytest
from helpers.scenes import detailed, letterboxed, pan, write_montage

from ltx_diffusers.data.filters import filters, measuring, running
from ltx_diffusers.data.filters.measuring import MeasuredScene, Measuring
from ltx_diffusers.data.filters.running import measure_set
from ltx_diffusers.data.filters.scene import Scene
from ltx_diffusers.data.filters.watching import Watching
from ltx_diffusers.data.media_entries import MediaEntry, Part
from ltx_diffusers.data.media_sets import find_entries
from ltx_diffusers.errors import InputError, RegistrationError


class CrashFilter:
    """Ends its process at a caption."""

    scores: ClassVar[dict[str, str]] = {"survived": "always 1"}

    def __call__(self, scene: Scene) -> dict[str, float]:
        if scene.caption == "crash":
            os._exit(9)
        return {"survived": 1.0}


class LyingFilter:
    """Gives what it doesn't name."""

    scores: ClassVar[dict[str, str]] = {"told": "never given"}

    def __call__(self, scene: Scene) -> dict[str, float]:
        return {"other": 1.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small videos, of two shots, of one, and of one with bars; and one that is none."""
    root = tmp_path_factory.mktemp("set")
    shots = [pan(detailed(seed, 48), 16, 0.5, 64) for seed in range(4)]
    write_montage(root / "a.mp4", shots[0], shots[1])
    write_montage(root / "b.mp4", shots[2])
    write_montage(root / "c.mp4", letterboxed(shots[3], 12, 12))
    (root / "d.mp4").write_bytes(b"no video")
    return root


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "set"))


@pytest.fixture
def measured_now(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is really measured, in this process."""
    names: list[str] = []

    def watched(entry: MediaEntry, *rest: object) -> dict:
        names.append(entry.name)
        return measuring.measure(entry, *rest)

    monkeypatch.setattr(running, "measure", watched)
    return names


def plain(scenes: list[MeasuredScene]) -> list[tuple]:
    return [(scene.name, scene.part, scene.size, scene.fingerprint, dict(scene.scores)) for scene in scenes]


def test_every_scene_is_measured_in_order_and_broken_files_are_listed(folder: Path) -> None:
    entries, _ = find_entries(folder)
    ticks: list[int] = []
    scenes, problems = measure_set(entries, advance=lambda: ticks.append(1))
    assert [scene.entry.name for scene in scenes] == ["a.mp4", "a.mp4", "b.mp4", "c.mp4"]
    assert [scene.part for scene in scenes] == [
        Part(0.0, pytest.approx(16 / 24)),
        Part(pytest.approx(16 / 24), pytest.approx(32 / 24)),
        None,
        Part(0.0, None, (0, 14, 64, 44)),
    ]
    assert scenes[0].name == "a.mp4 [0.00-0.67 s]" and scenes[2].name == "b.mp4"
    assert scenes[3].size == (64, 44) and scenes[3].scores["height"] == 44
    assert scenes[3].scores["bars"] == pytest.approx(1 - 44 / 72, abs=1e-4) and scenes[2].scores["bars"] == 0
    assert all(set(scene.scores) == set(Measuring().scores()) for scene in scenes)
    assert [problem.name for problem in problems] == ["d.mp4"] and len(ticks) == 4
    (uncropped,), _ = measure_set([entries[2]], Measuring(crop_bars=False))
    assert uncropped.part is None and uncropped.size == (64, 72) and uncropped.scores["bars"] > 0.3


def test_processes_and_memory_of_earlier_runs_change_nothing(folder: Path, tmp_path: Path) -> None:
    entries, _ = find_entries(folder)
    journal = tmp_path / "new" / "measured.jsonl"
    together = measure_set(entries, journal=journal, workers=2)
    alone = measure_set(entries)
    again = measure_set(entries, journal=journal)
    assert plain(together[0]) == plain(alone[0]) == plain(again[0])
    assert together[1] == alone[1] == again[1]


def test_nothing_is_measured_twice_and_nothing_stale_is_used(
    folder: Path, tmp_path: Path, measured_now: list[str]
) -> None:
    journal = tmp_path / "m.jsonl"

    def run(settings: Measuring | None = None, **fields: object) -> list[str]:
        measured_now.clear()
        entries = [MediaEntry(path.name, path.stem, path, **fields) for path in sorted(folder.iterdir())]
        measure_set(entries, settings, journal=journal)
        return list(measured_now)

    assert run() == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert run() == []
    (folder / "a.mp4").rename(folder / "z.mp4")
    assert run() == []  # a new name, the same content
    write_montage(folder / "b.mp4", pan(detailed(9, 48), 16, 0.5, 64))
    assert run() == ["b.mp4"]
    assert len(run(Measuring(Watching(cuts="none")))) == 4
    assert len(run(Measuring(crop_bars=False))) == 4
    assert len(run(Measuring(filters=("motion",)))) == 4
    assert len(run(caption="a caption counts too")) == 4
    assert len(run(part=Part(0.1))) == 4
    assert run() == []


def test_a_line_that_was_cut_off_is_measured_again(
    folder: Path, tmp_path: Path, measured_now: list[str]
) -> None:
    entries, _ = find_entries(folder)
    journal = tmp_path / "m.jsonl"
    first = measure_set(entries, journal=journal)
    whole = journal.read_bytes()
    for cut in (len(whole) - 40, 10):
        journal.write_bytes(whole[:cut])
        measured_now.clear()
        assert plain(measure_set(entries, journal=journal)[0]) == plain(first[0])
        assert measured_now == (["d.mp4"] if cut > 10 else [entry.name for entry in entries])
        measured_now.clear()
        measure_set(entries, journal=journal)
        assert not measured_now


def test_another_file_is_not_taken_for_measurements(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "list.jsonl"
    other.write_text(json.dumps({"path": "a.mp4"}) + "\n")
    with pytest.raises(InputError, match="holds no measurements"):
        measure_set(find_entries(folder)[0], journal=other)
    assert other.read_text().count("\n") == 1
    with pytest.raises(InputError, match="can't be used"):
        measure_set(find_entries(folder)[0], journal=folder)


def test_a_killed_run_goes_on_where_it_was(folder: Path, tmp_path: Path, measured_now: list[str]) -> None:
    journal = tmp_path / "m.jsonl"
    code = """
        import os, signal, sys
        from pathlib import Path
        from ltx_diffusers.data.filters.running import measure_set
        from ltx_diffusers.data.media_sets import find_entries
        done = []
        def advance():
            done.append(1)
            if len(done) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        measure_set(find_entries(sys.argv[1])[0], journal=Path(sys.argv[2]), advance=advance)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(folder), str(journal)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    scenes, _ = measure_set(find_entries(folder)[0], journal=journal)
    assert measured_now == ["c.mp4", "d.mp4"] and len(scenes) == 4


def test_a_file_that_crashes_the_decoder_is_a_problem_like_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(filters._entries, "crash", CrashFilter)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # where other processes find this module
    monkeypatch.setattr(CrashFilter, "__module__", "test_running")
    sys.modules.setdefault("test_running", sys.modules[__name__])
    entries = [
        MediaEntry(path.name, path.stem, path, "crash" if path.name == "b.mp4" else "")
        for path in sorted(folder.iterdir())
    ]
    scenes, problems = measure_set(
        entries, Measuring(filters=("crash",)), workers=2, journal=tmp_path / "m.jsonl"
    )
    assert [scene.entry.name for scene in scenes] == ["a.mp4", "a.mp4", "c.mp4"]
    assert [(problem.name, "crashed" in problem.reason) for problem in problems] == [
        ("b.mp4", True),
        ("d.mp4", False),
    ]


def test_filters_must_keep_their_word(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(filters._entries, "lying", LyingFilter)
    with pytest.raises(InputError, match=r"LyingFilter.*other = 1.0.*told"):
        measure_set(find_entries(folder)[0], Measuring(filters=("lying",)))
    with pytest.raises(RegistrationError, match="scores"):
        filters.register("nameless")(lambda scene: {})
