"""Datasets of Hugging Face's on disk: what is in them, and what is said where something is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value, load_from_disk
from helpers.media_sets import grey_of, picture_bytes, write_clips, write_dataset, write_pictures

from ltx_diffusers.data import hf_clips
from ltx_diffusers.data.checking import check_set
from ltx_diffusers.data.folder_clips import FolderClips
from ltx_diffusers.data.hf_clips import DatasetClips, list_dataset
from ltx_diffusers.data.media_sets import find_entries, reader_of
from ltx_diffusers.data.packing import pack, plan_shards
from ltx_diffusers.errors import InputError, MediaError

SIZE = {"num_frames": 9, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"), 3)


def videos(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mp4"))


def test_a_dataset_gives_the_clips_of_its_rows(folder: Path, tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "dataset", videos(folder), start=[0.0, 0.5, 0.0], fps=[24, 24, 24])
    assert reader_of(path) == "hf-dataset"
    entries, problems = find_entries(path)
    assert not problems
    assert [entry.name for entry in entries] == [f"dataset/{index}/clip{index}.mp4" for index in range(3)]
    assert [entry.caption for entry in entries] == [f"grey number {index}" for index in range(3)]
    assert entries[1].part.start == 0.5 and entries[0].facts == {"fps": 24}
    for entry, file in zip(entries, videos(folder), strict=True):
        assert entry.open().read() == file.read_bytes()
    # The same reader as for files: by its name, a clip is the same one.
    plain = write_dataset(tmp_path / "plain", videos(folder))
    reader, other = DatasetClips(**SIZE, path=plain), FolderClips(**SIZE, path=folder)
    assert reader.num_entries == other.num_entries == 2
    assert {grey_of(reader[number].frames)[0] // 30 for number in range(6)} == {
        grey_of(other[number].frames)[0] // 30 for number in range(6)
    }
    assert reader[0].frame_rate == 24
    report = check_set(*find_entries(plain))
    assert report.videos == 3 and report.is_clean
    packed = pack(plan_shards(entries, samples=9, max_bytes=10**9), tmp_path / "tars")
    assert packed.samples == 3


def test_splits_paths_pictures_and_rows_without_anything(folder: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "files", 2)
    rows = {
        "picture": [{"bytes": picture_bytes(), "path": None}, None],
        "prompt": ["one", None],
    }
    features = Features({"picture": Image(decode=False), "prompt": Value("string")})
    pictures = Dataset.from_dict(rows, features=features)
    paths = Dataset.from_dict({"file_name": ["files/still0.png", "notes.txt"], "words": ["a", "b"]})
    DatasetDict({"train": pictures, "validation": pictures}).save_to_disk(str(tmp_path / "both"))
    entries, _ = list_dataset(tmp_path / "both")
    assert [entry.split for entry in entries] == ["train"] * 2 + ["held-out"] * 2
    assert all(entry.is_picture for entry in entries) and entries[0].caption == "one"
    report = check_set(entries)
    assert report.pictures == 2 and "row is empty" in report.broken[0].reason

    paths.save_to_disk(str(tmp_path / "paths"))
    entries, problems = list_dataset(tmp_path / "paths", tmp_path, caption_column="words")
    assert [entry.caption for entry in entries] == ["a"]
    assert "neither a picture nor a video" in problems[0].reason
    assert entries[0].open() == tmp_path / "files" / "still0.png"
    # Rows in an order of their own, which the table doesn't have.
    shuffled = load_from_disk(str(tmp_path / "paths")).select([1, 0])
    shuffled.save_to_disk(str(tmp_path / "turned"))
    entries, _ = list_dataset(tmp_path / "turned", tmp_path)
    assert entries[0].row == 1 and entries[0].open().name == "still0.png"


def test_useless_datasets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match="no dataset"):
        list_dataset(tmp_path)
    Dataset.from_dict({"words": ["a"], "number": [1]}).save_to_disk(str(tmp_path / "words"))
    with pytest.raises(InputError, match="no column of pictures"):
        list_dataset(tmp_path / "words")
    with pytest.raises(InputError, match="got other; expected words, number"):
        list_dataset(tmp_path / "words", media_column="other")
    Dataset.from_dict({"path": ["a.mp4"]}).save_to_disk(str(tmp_path / "short"))
    with pytest.raises(InputError, match="no column 'words'"):
        list_dataset(tmp_path / "short", caption_column="words")
    with pytest.raises(MediaError, match="has no pictures or videos"):
        Dataset.from_dict({"path": ["a.txt"]}).save_to_disk(str(tmp_path / "none"))
        list_dataset(tmp_path / "none")
    for file in (tmp_path / "short").glob("*.arrow"):
        file.write_bytes(b"no table")
    hf_clips._open_split.cache_clear()
    with pytest.raises(MediaError, match="can't be read"):
        list_dataset(tmp_path / "short")
    hf_clips._open_split.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"ltx-diffusers\[datasets\]"):
        list_dataset(tmp_path / "words")
