"""Readers of folders and lists: which clips, in which order, and what broken files do."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.media_sets import grey_of, picture_bytes, write_clips, write_pictures

from ltx_diffusers.data.folder_clips import FolderClips, list_folder
from ltx_diffusers.data.list_clips import ListClips, read_list
from ltx_diffusers.data.media_clips import split_entries
from ltx_diffusers.data.media_entries import MediaEntry
from ltx_diffusers.errors import InputError, MediaError

SIZE = {"num_frames": 9, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos with captions, two pictures in a folder below, and files that are neither."""
    root = write_clips(tmp_path_factory.mktemp("set"), 6)
    write_pictures(root / "stills")
    (root / "notes.md").write_text("no video")
    (root / ".hidden.mp4").write_bytes(b"no video")
    (root / "stills" / "again").symlink_to(root)
    return root


def names(reader, count: int) -> list[str]:
    return [Path(reader[number].name).name for number in range(count)]


def test_a_round_reads_everything_once_and_the_next_in_another_order(folder: Path) -> None:
    reader = FolderClips(**SIZE, path=folder)
    count = len(reader._entries)
    rounds = [
        [reader[number].name for number in range(turn * count, (turn + 1) * count)] for turn in range(4)
    ]
    assert all(sorted(names) == sorted(rounds[0]) for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1
    assert count == 5 and not reader.skipped  # one of six is held out


def test_a_number_gives_the_same_clip_whatever_was_read_before(folder: Path) -> None:
    first, other = (
        FolderClips(**SIZE, path=folder),
        pickle.loads(pickle.dumps(FolderClips(**SIZE, path=folder))),
    )
    clips = {number: first[number] for number in range(12)}
    for number in reversed(range(12)):
        again = other[number]
        np.testing.assert_array_equal(again.frames, clips[number].frames)
        assert (again.caption, again.name) == (clips[number].caption, clips[number].name)
    assert repr(first) == repr(other) != repr(FolderClips(**SIZE, path=folder, stride=2))
    assert names(first, 8) != names(FolderClips(**SIZE, path=folder, seed=1), 8)


def test_a_file_that_was_written_anew_is_another_clip(tmp_path: Path) -> None:
    root = write_clips(tmp_path, 3)
    before = repr(FolderClips(**SIZE, path=root))
    assert repr(FolderClips(**SIZE, path=root)) == before
    reader = FolderClips(**SIZE, path=root)
    file = reader._of_split[0].path
    file.write_bytes(next(entry.path for entry in reader._of_split if entry.path != file).read_bytes())
    assert repr(FolderClips(**SIZE, path=root)) != before
    assert repr(reader) == repr(reader.with_frames(1).with_frames(SIZE["num_frames"]))


def test_a_clip_is_a_run_of_frames_with_its_own_caption(folder: Path) -> None:
    reader = FolderClips(**SIZE, path=folder)
    starts = set()
    for number in range(12):
        clip = reader[number]
        assert clip.frames.shape == (9, 32, 32, 3) and clip.frames.dtype == np.float32
        index = int(Path(clip.name).stem.removeprefix("clip"))
        assert clip.caption == f"grey number {index}" == reader.caption(number, np.random.default_rng())
        assert reader.name(number) == clip.name
        values = np.array(grey_of(clip.frames))
        place = (values[0] - 20 - 30 * index) / 3
        np.testing.assert_allclose(values, 20 + 30 * index + 3 * (place + np.arange(9)), atol=2)
        starts.add(round(place))
    assert len(starts) > 4 and max(starts) <= 15


def test_frame_rate_and_stride_choose_the_frames(folder: Path) -> None:
    for settings in ({"frame_rate": 8}, {"stride": 3}):
        clip = FolderClips(**SIZE | {"num_frames": 5}, path=folder, **settings)[0]
        np.testing.assert_allclose(np.diff(grey_of(clip.frames)), 9, atol=2)
        assert clip.frame_rate == pytest.approx(8)


def test_the_held_out_clips_are_others_and_stay_held_out(folder: Path) -> None:
    trained = {FolderClips(**SIZE, path=folder)[number].name for number in range(20)}
    held_out = FolderClips(**SIZE, path=folder, split="held-out")
    assert not trained & {held_out[number].name for number in range(20)}
    middle = grey_of(held_out[0].frames)
    assert middle == grey_of(held_out[1].frames)  # always the same stretch, the middle: frames 7 to 15 of 24
    np.testing.assert_allclose((middle[0] - 20) % 30, 7.5 * 3, atol=3)

    entries = [MediaEntry(f"{index}.mp4", str(index), Path("x")) for index in range(400)]
    few = {entry.key for entry in split_entries(entries[:200], "held-out", 0.1)}
    many = {entry.key for entry in split_entries(entries, "held-out", 0.1)}
    assert few <= many and 20 < len(many) < 60
    for count in (1, 2, 3):  # a split without any is given one, of each kind
        assert split_entries(entries[:count], "train", 0.999)
        assert bool(split_entries(entries[:count], "held-out", 1e-9)) == (count > 1)


def test_pictures_and_videos_give_single_frames(folder: Path) -> None:
    def kinds(**settings: str) -> set[str]:
        reader = FolderClips(1, 32, 32, path=folder, **settings)
        assert reader[0].frames.shape == (1, 32, 32, 3)
        return {Path(reader[number].name).suffix for number in range(16)}

    assert kinds() == {".mp4", ".png"}
    assert kinds(stills="pictures") == {".png"}
    assert kinds(stills="videos") == {".mp4"}
    clips = FolderClips(**SIZE, path=folder)
    assert clips.with_frames(1) is clips.with_frames(1)
    assert clips.with_size(1, 16, 48)[0].frames.shape == (1, 16, 48, 3)
    assert clips.with_size(height=16)[0].frames.shape == (9, 16, 32, 3)


def test_broken_files_are_left_out_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_clips(tmp_path, 3)
    whole = (tmp_path / "clip0.mp4").read_bytes()
    broken = {
        "empty.mp4": b"",
        "text.mp4": b"this is no video " * 50,
        "cut.mp4": whole[: len(whole) // 2],
        "small.png": picture_bytes(height=8),
        "bad.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        "sound.mp4": b"\0\0\0\x18ftypmp42" + b"\xff" * 400,
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "clip0.txt").write_bytes(b"\xff\xfe\xff")
    reader = FolderClips(1, 32, 32, path=tmp_path, held_out_share=0.001)
    again = FolderClips(1, 32, 32, path=tmp_path, held_out_share=0.001)
    assert "the set has 1 unusable parts; the first is clip0.txt" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        clips = [reader[number] for number in range(40)]
    assert {clip.name for clip in clips} <= {"clip0.mp4", "clip1.mp4", "clip2.mp4"}
    met = {problem.name for problem in reader.skipped}
    held_out = {entry.name for entry in split_entries(list_folder(tmp_path)[0], "held-out", 0.001)}
    assert len(held_out) == 2  # a picture and a video
    assert met == set(broken) - held_out | {"clip0.txt"}
    assert len(met) == len(reader.skipped)
    assert len(caplog.records) == len(met) - 1  # the caption was reported before
    assert any("at least 32x32" in problem.reason for problem in reader.skipped)
    for number in (31, 7, 23):  # the replacement follows from the number, not from what was read before
        np.testing.assert_array_equal(again[number].frames, clips[number].frames)
        assert again.caption(number, np.random.default_rng()) == clips[number].caption


def test_a_set_without_anything_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no folder"):
        FolderClips(path=tmp_path / "none")
    with pytest.raises(MediaError, match="no pictures or videos"):
        FolderClips(path=tmp_path)
    for index in range(3):
        (tmp_path / f"{index}.mp4").write_bytes(b"nothing")
    with pytest.raises(MediaError, match="in a row"):
        FolderClips(path=tmp_path)[0]
    write_pictures(tmp_path / "stills")
    with pytest.raises(InputError, match="17 frames"):
        FolderClips(path=tmp_path / "stills")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 8}, "frame_rate|unknown option"),
        ({"strid": 2}, "stride"),
        ({"stride": 0}, "positive"),
        ({"stride": "2"}, "positive"),
        ({"frame_rate": "8"}, "positive"),
        ({"resize": "squash"}, "cover, none"),
        ({"stills": "gifs"}, "pictures"),
        ({"held_out_share": 1.0}, "between 0 and 1"),
        ({"upscale": 1}, "true or false"),
        ({"split": "validation"}, "held-out"),
    ],
)
def test_unusable_options_are_refused(folder: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FolderClips(path=folder, **options)


def test_small_pictures_may_be_enlarged_and_large_ones_cut(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2, height=40, width=50)
    with pytest.raises(MediaError, match="too small"):
        FolderClips(1, 64, 64, path=tmp_path)[0]
    assert FolderClips(1, 64, 64, path=tmp_path, upscale=True)[0].frames.shape == (1, 64, 64, 3)
    rows = np.repeat(np.arange(40, dtype=np.uint8)[:, None, None] * 5, 50, axis=1).repeat(3, axis=2)
    from ltx_diffusers.data.video import write_image

    for index in range(2):
        write_image(tmp_path / f"still{index}.png", rows)
    part = FolderClips(1, 16, 16, path=tmp_path, resize="none")[0].frames[0, :, 0, 0] * 255
    np.testing.assert_allclose(np.diff(part), 5, atol=1e-3)  # pixels as they are
    middle = FolderClips(1, 16, 16, "held-out", path=tmp_path, resize="none")[0].frames[0, :, 0, 0] * 255
    np.testing.assert_allclose(middle, 5 * np.arange(12, 28), atol=1e-3)


# lists


def rows(folder: Path) -> list[dict]:
    return [
        {"path": f"clip{i}.mp4", "caption": f"  words,\n {i} ", "fps": 24, "duration": 1.0} for i in range(6)
    ]


def write_list(path: Path, table: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif path.suffix == ".json":
        path.write_text(json.dumps(table))
    else:
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(table)
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl"])
def test_every_kind_of_list_names_the_same_clips(folder: Path, tmp_path: Path, ending: str) -> None:
    path = write_list(tmp_path / f"list{ending}", rows(folder))
    reader = ListClips(**SIZE, path=path, root=folder)
    assert {reader[number].caption for number in range(10)} <= {f"words, {index}" for index in range(6)}
    assert not reader.skipped
    plain = FolderClips(**SIZE, path=folder)
    assert {reader[n].name for n in range(10)} == {plain[n].name for n in range(10)}


def test_what_a_list_says_of_lengths_and_splits_counts(folder: Path, tmp_path: Path) -> None:
    table = rows(folder)
    table[0]["duration"] = 0.2  # it is longer, but the list is believed
    for row, split in zip(table, ["train", "train", "val", "train", "test", "held-out"], strict=True):
        row["split"] = split
    path = write_list(tmp_path / "list.jsonl", table)
    train = ListClips(**SIZE, path=path, root=folder)
    assert set(names(train, 8)) == {"clip1.mp4", "clip3.mp4"}
    held_out = ListClips(**SIZE, path=path, root=folder, split="held-out")
    assert set(names(held_out, 8)) == {"clip2.mp4", "clip4.mp4", "clip5.mp4"}
    assert not train.skipped


def test_rows_name_what_a_clip_is_made_from(folder: Path, tmp_path: Path) -> None:
    columns = [
        {"reference": "a.mp4"},
        {"references": ["a.mp4", "b.png"], "mask": "m.png"},
        {"reference": '["a.mp4", "b.png"]', "mask_path": "sub/m.webm"},
        {"reference": "notes.md"},
        {"reference": 3},
        {"mask": ["m.png", "n.png"]},
    ]
    path = write_list(tmp_path / "list.jsonl", [rows(folder)[0] | more for more in columns])
    entries, problems = read_list(path, folder)
    pair = (folder / "a.mp4", folder / "b.png")
    assert [entry.references for entry in entries] == [pair[:1], pair, pair]
    assert [entry.mask for entry in entries] == [None, folder / "m.png", folder / "sub/m.webm"]
    for problem, words in zip(problems, ("notes.md", "no file", "more than one mask"), strict=True):
        assert words in problem.reason


def test_bad_rows_are_left_out_and_listed(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    lines = [
        json.dumps({"video": "clip0.mp4", "text": "fine"}),
        "",
        "{not json",
        "[" * 100_000,
        "[1, 2]",
        json.dumps({"caption": "no file"}),
        json.dumps({"path": 5}),
        json.dumps({"path": "notes.md"}),
        json.dumps({"path": "clip1.mp4", "caption": 3, "prompt": "taken instead"}),
        json.dumps({"path": "clip2.mp4", "split": ["train"]}),
        json.dumps({"path": "missing.mp4", "fps": "x", "duration": None}),
    ]
    path.write_bytes("\n".join(lines).encode() + b'\n{"path": "\xff.mp4"}\n')
    entries, problems = read_list(path, folder)
    assert [(entry.name, entry.caption) for entry in entries] == [
        ("clip0.mp4", "fine"),
        ("clip1.mp4", "taken instead"),
        ("missing.mp4", ""),
    ]
    assert [problem.name.split()[-1] for problem in problems] == ["3", "4", "5", "6", "7", "8", "10", "12"]
    reader = ListClips(**SIZE, path=path, root=folder)
    for number in range(6):
        reader[number]
        reader.with_size(height=16)[number]
    assert sum(problem.name == "missing.mp4" for problem in reader.skipped) <= 1


def test_useless_lists_are_refused(tmp_path: Path) -> None:
    for name, content, message in [
        ("a.json", "{}", "list of objects"),
        ("b.json", "{", "can't be read"),
        ("c.jsonl", "", "no rows"),
        ("d.csv", "name,words\na.mp4,x\n", "a column path or .*, but name, words$"),
        ("h.jsonl", '{"path": "a.mp4", "conditions": [{"fram": 0}]}', "did you mean frame\\?$"),
        ("e.parquet", "", "end in another way"),
    ]:
        (tmp_path / name).write_text(content)
        with pytest.raises(MediaError, match=message):
            read_list(tmp_path / name)
    with pytest.raises(MediaError, match="can't be read"):
        read_list(tmp_path / "missing.csv")
    (tmp_path / "f.csv").write_bytes(b"path\n\xff\xfe.mp4\n")
    with pytest.raises(MediaError, match="can't be read"):
        read_list(tmp_path / "f.csv")
    (tmp_path / "g.csv").write_text("datei,worte\na.mp4,x\n")
    entries, _ = read_list(tmp_path / "g.csv", path_column="datei", caption_column="worte")
    assert (entries[0].path, entries[0].caption) == (tmp_path / "a.mp4", "x")
