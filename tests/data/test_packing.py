"""Sets packed into tars: whole, equal, resumable, and read back as they were."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.media_sets import write_clips, write_pictures

from ltx_diffusers.data.folder_clips import FolderClips
from ltx_diffusers.data.media_entries import MediaEntry
from ltx_diffusers.data.media_sets import find_entries
from ltx_diffusers.data.packing import PLAN_NAME, pack, plan_shards
from ltx_diffusers.data.tar_clips import TarClips
from ltx_diffusers.errors import InputError

LIMITS = {"samples": 3, "max_bytes": 10**9}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_clips(tmp_path / "source", 4)
    write_pictures(folder / "still.life")
    (folder / "broken.mp4").write_bytes(b"broken")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_packed_set_gives_the_same_clips(source: Path, tmp_path: Path) -> None:
    entries, _ = find_entries(source)
    report = pack(plan_shards(entries, **LIMITS), tmp_path / "tars")
    assert [shard.name for shard in report.shards] == ["000000.tar", "000001.tar", "000002.tar"]
    assert report.samples == 6 and [problem.name for problem in report.left_out] == ["broken.mp4"]

    packed, problems = find_entries(tmp_path / "tars")
    assert not problems
    assert {entry.key for entry in packed} == {
        *(f"clip{i}" for i in range(4)),
        "still_life/still0",
        "still_life/still1",
    }
    by_key = {entry.key: entry for entry in packed}
    for index in range(4):
        entry = by_key[f"clip{index}"]
        assert entry.caption == f"grey number {index}"
        assert entry.open().read() == (source / f"clip{index}.mp4").read_bytes()
        assert entry.facts["fps"] == 24 and entry.facts["duration"] == 1 and entry.facts["width"] == 64
    middle = {"split": "held-out", "held_out_share": 0.99, "path": tmp_path / "tars"}
    clip = TarClips(9, 32, 32, **middle)[0]
    same = FolderClips(9, 32, 32, **middle | {"path": source})
    twin = next(same[n] for n in range(40) if same[n].caption == clip.caption)
    np.testing.assert_array_equal(twin.frames, clip.frames)


def test_tars_have_the_layout_of_ssvae_and_no_traces_of_the_machine(source: Path, tmp_path: Path) -> None:
    pack(plan_shards(find_entries(source)[0], samples=100, max_bytes=10**9, seed=None), tmp_path / "tars")
    with tarfile.open(tmp_path / "tars" / "000000.tar") as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names[:3] == ["clip0.mp4", "clip0.txt", "clip0.id"]  # one after the other, in the set's order
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
    lines = (tmp_path / "tars" / "000000.meta.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first == {
        "key": "clip0", "width": 64, "height": 48, "fps": 24.0, "duration": 1.0, "caption": "grey number 0",
    }  # fmt: skip
    assert len(lines) == 6


def test_equal_sets_give_equal_tars_and_other_seeds_others(source: Path, tmp_path: Path) -> None:
    entries, _ = find_entries(source)
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        pack(plan_shards(entries, seed=seed, **LIMITS), tmp_path / name)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    assert one["000000.tar"] != contents(tmp_path / "other")["000000.tar"]


def test_limits_of_a_tar(tmp_path: Path) -> None:
    entries = []
    for index, size in enumerate((100, 3000, 100, 100, 100)):
        path = tmp_path / f"{index}.mp4"
        path.write_bytes(bytes(size))
        entries.append(MediaEntry(path.name, str(index), path))

    def keys(**limits: int) -> list[list[str]]:
        return [[key for key, _ in shard] for shard in plan_shards(entries, seed=None, **limits)]

    assert keys(samples=2, max_bytes=10**9) == [["0", "1"], ["2", "3"], ["4"]]
    assert keys(samples=9, max_bytes=2 * (100 + 2048)) == [["0"], ["1"], ["2", "3"], ["4"]]
    assert keys(samples=9, max_bytes=1) == [[key] for key in "01234"]
    with pytest.raises(InputError, match="positive"):
        keys(samples=0, max_bytes=1)


def test_keys_are_unlike_and_lead_nowhere() -> None:
    names = ["a.b", "a_b", "../x", "/x", "..", "a.b"]
    plan = plan_shards(
        [MediaEntry("e.mp4", name, Path("e")) for name in names], samples=9, max_bytes=9**9, seed=None
    )
    assert [key for key, _ in plan[0]] == ["a_b", "a_b-2", "x", "x-2", "sample", "a_b-3"]


def test_an_interrupted_packing_goes_on(source: Path, tmp_path: Path) -> None:
    entries, _ = find_entries(source)
    plan = plan_shards(entries, **LIMITS)
    pack(plan, tmp_path / "whole")

    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(plan, tmp_path / "tars", advance=stop)
    begun = contents(tmp_path / "tars")
    assert set(begun) == {"000000.tar", "000000.meta.jsonl", PLAN_NAME}
    (tmp_path / "tars" / ".000001.tar.00000000.part").write_bytes(b"left by a killed process")
    times = (tmp_path / "tars" / "000000.tar").stat().st_mtime_ns
    with pytest.raises(InputError, match="--resume"):
        pack(plan, tmp_path / "tars")
    with pytest.raises(InputError, match="another set"):
        pack(plan_shards(entries, seed=1, **LIMITS), tmp_path / "tars", resume=True)
    pack(plan, tmp_path / "tars", resume=True)
    assert contents(tmp_path / "tars") == contents(tmp_path / "whole")
    assert (tmp_path / "tars" / "000000.tar").stat().st_mtime_ns == times
