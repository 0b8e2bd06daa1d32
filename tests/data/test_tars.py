"""WebDataset tars: what is found in them, whole and broken, by number and as a stream."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import logging
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.media_sets import grey_of, picture_bytes, write_clips, write_tar
from torch.utils.data import DataLoader

from ltx_diffusers.data.clip_stream import ClipStream, collate_clips
from ltx_diffusers.data.tar_clips import TarClips, index_shards
from ltx_diffusers.data.tars import find_shards, index_shard
from ltx_diffusers.errors import InputError, MediaError

PICTURE = {"num_frames": 1, "height": 32, "width": 32}


def pictures(path: Path, first: int, count: int) -> Path:
    """A tar of pictures whose grey is their number."""
    numbers = range(first, first + count)
    return write_tar(path, [(f"{number:06d}.png", picture_bytes(number)) for number in numbers])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tars of 4, 5, 6, 7 and 8 pictures."""
    folder = tmp_path_factory.mktemp("shards")
    for index in range(5):
        pictures(folder / f"{index:03d}.tar", 20 * index, 4 + index)
    return folder


# the index


def test_samples_are_runs_of_members_with_captions_and_metadata(tmp_path: Path) -> None:
    video = (write_clips(tmp_path / "clips", 1) / "clip0.mp4").read_bytes()
    shard = write_tar(
        tmp_path / "000000.tar",
        [
            ("a/1.id", b"1"),
            ("a/1.mp4", video),
            ("a/1.txt", b" from the\ntext "),
            ("a/2.jpg", b"poster"),
            ("a/2.left.MP4", video),
            ("a/2.json", b'{"caption": "from its json", "fps": 8}'),
            ("b.c/3.webm", video),
            ("4.png", picture_bytes()),
            ("readme", b"no sample"),
            (".hidden.mp4", b"no sample"),
        ],
    )
    (tmp_path / "000000.meta.jsonl").write_text(
        '{"key": "a/1", "duration": 1.0, "fps": 24, "caption": "not taken"}\n'
        '{"key": "a/2", "fps": 24, "text": "not taken"}\n'
        '{"key": "b.c/3", "text": "from the metadata", "score": 5}\n'
    )
    entries, problems = index_shard(shard)
    assert not problems
    assert [(entry.key, entry.name, entry.caption) for entry in entries] == [
        ("a/1", "000000.tar/a/1.mp4", "from the text"),
        ("a/2", "000000.tar/a/2.left.MP4", "from its json"),
        ("b.c/3", "000000.tar/b.c/3.webm", "from the metadata"),
        ("4", "000000.tar/4.png", ""),
    ]
    assert [dict(entry.facts) for entry in entries] == [{"fps": 24, "duration": 1.0}, {"fps": 8}, {}, {}]
    assert entries[0].open().read() == video and entries[3].open().read() == picture_bytes()


def test_a_reader_of_tars_gives_their_clips(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "clips", 3)
    files = sorted(folder.iterdir())
    write_tar(tmp_path / "0.tar", [(file.name, file.read_bytes()) for file in files])
    reader = TarClips(9, 32, 32, path=tmp_path / "0.tar", held_out_share=0.3)
    clip = reader[0]
    index = int(clip.caption.removeprefix("grey number "))
    assert clip.name == f"0.tar/clip{index}.mp4"
    np.testing.assert_allclose(np.diff(grey_of(clip.frames)), 3, atol=2)
    assert not reader.skipped


def test_metadata_may_rule_out_short_videos(tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "clips", 4, captions=False)
    write_tar(tmp_path / "0.tar", [(file.name, file.read_bytes()) for file in sorted(folder.iterdir())])
    lines = [{"key": f"clip{index}", "duration": 1.0 if index else 0.3, "fps": 24} for index in range(4)]
    (tmp_path / "0.meta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reader = TarClips(9, 32, 32, path=tmp_path, held_out_share=1e-6)
    both = {reader[number].name for number in range(8)} | {
        TarClips(9, 32, 32, "held-out", path=tmp_path, held_out_share=1e-6)[0].name
    }
    assert "0.tar/clip0.mp4" not in both and not reader.skipped


def test_wrong_metadata_are_listed_and_the_samples_read_all_the_same(tmp_path: Path) -> None:
    shard = pictures(tmp_path / "1.tar", 0, 3)
    (tmp_path / "1.meta.jsonl").write_bytes(
        b'{"key": "000000", "caption": "zero"}\n'
        b"{wrong\n"
        b"\xff\xfe\n"
        b'["key"]\n'
        b'{"key": 2}\n'
        b'{"key": "000000", "caption": "again"}\n'
        b'{"key": "elsewhere"}\n' + b"[" * 5000 + b"\n"
        b'{"key": "000001", "caption": ["no text"], "fps": "?", "duration": {}}\n'
    )
    entries, problems = index_shard(shard)
    assert [entry.caption for entry in entries] == ["zero", "", ""]
    lines = [problem.name.rpartition(" ")[2] for problem in problems if ", line" in problem.name]
    assert lines == ["2", "3", "4", "5", "6", "8"]
    assert "elsewhere" in problems[-1].reason
    assert TarClips(**PICTURE, path=shard)[0].frames.shape == (1, 32, 32, 3)


def test_one_file_of_metadata_may_speak_for_a_folder(shards: Path, tmp_path: Path) -> None:
    for index in range(2):
        pictures(tmp_path / f"{index}.tar", 10 * index, 2)
    (tmp_path / "meta.jsonl").write_text(
        "".join(f'{{"key": "{number:06d}", "text": "number {number}"}}\n' for number in (0, 1, 10, 11))
    )
    entries, problems = index_shards(find_shards(tmp_path))
    assert [entry.caption for entry in entries] == ["number 0", "number 1", "number 10", "number 11"]
    assert not problems


def test_broken_tars_give_what_comes_before_the_damage(tmp_path: Path) -> None:
    whole = pictures(tmp_path / "whole.tar", 0, 4).read_bytes()
    starts = [entry.span[0] for entry in index_shard(tmp_path / "whole.tar")[0]]
    damaged = bytearray(whole)
    damaged[starts[2] - 512 : starts[2] - 300] = b"\x99" * 212
    forged = bytearray(whole)
    forged[starts[1] - 512 + 124 : starts[1] - 512 + 136] = b"77777777777\0"  # eight gigabytes
    cases = {
        "cut": (whole[: starts[2] + 10], 2, "ends within it"),
        "damaged": (bytes(damaged), 2, "damaged at byte"),
        "forged": (bytes(forged), 1, "can't be read any further|damaged"),
        "nothing": (b"", 0, "no pictures or videos"),
        "empty": (b"\0" * 10240, 0, "no pictures or videos"),
        "text": (b"this is not a tar " * 100, 0, "can't be read"),
        "zipped": (gzip.compress(whole), 0, "can't be read"),
        "no-end": (whole.rstrip(b"\0") + b"\0" * 8, 4, None),
    }
    for name, (content, count, message) in cases.items():
        shard = tmp_path / f"{name}.tar"
        shard.write_bytes(content)
        entries, problems = index_shard(shard)
        assert len(entries) == count, name
        if message is not None:
            import re

            assert any(re.search(message, str(problem)) for problem in problems), (name, problems)
    for name in ("nothing", "empty", "text"):
        with pytest.raises(MediaError, match="no pictures or videos"):
            TarClips(path=tmp_path / f"{name}.tar")
    reader = TarClips(**PICTURE, path=[tmp_path / "cut.tar", tmp_path / "empty.tar", tmp_path / "text.tar"])
    assert reader[0].frames.shape == (1, 32, 32, 3) and len(reader.skipped) >= 3


def test_only_plain_members_are_read_and_nothing_is_unpacked(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture_bytes(7))
    shard = tmp_path / "in" / "0.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
        for name in ("../up.png", "/root.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture_bytes())
            tar.addfile(member, io.BytesIO(picture_bytes()))
    before = sorted(tmp_path.rglob("*"))
    entries, _ = index_shard(shard)
    assert [entry.key for entry in entries] == ["../up", "/root"]
    assert TarClips(**PICTURE, path=shard)[0].frames.shape == (1, 32, 32, 3)
    assert sorted(tmp_path.rglob("*")) == before


def test_patterns_folders_and_lists_name_tars(shards: Path, tmp_path: Path) -> None:
    everything = find_shards(shards)
    assert [shard.name for shard in everything] == [f"00{index}.tar" for index in range(5)]
    assert find_shards(f"{shards}/{{000..004}}.tar") == everything
    assert find_shards([shards / "003.tar", str(shards)])[0].name == "003.tar"
    assert len(find_shards([shards / "003.tar", shards])) == 5
    for path, message in [
        (tmp_path, "no tars"),
        (tmp_path / "x.tar", "no tar"),
        (f"{shards}/{{004..005}}.tar", "no tar .*005"),
        (f"{shards}/{{4..1}}.tar", "must rise"),
        ("{0..99999999}.tar", "without end"),
        ([], "no tars"),
    ]:
        with pytest.raises(MediaError, match=message):
            find_shards(path)
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(MediaError, match="plain tar"):
        find_shards(tmp_path / "x.tar.gz")


# the stream


def taken(stream: ClipStream, count: int) -> list[str]:
    return [clip.name for clip in itertools.islice(stream, count)]


def whole_turn(stream: ClipStream) -> list[str]:
    names = []
    for clip in stream:
        if stream.position.turn:
            return names
        names.append(clip.name)
    raise AssertionError


def everything_of(shards: Path, **settings) -> list[str]:
    return whole_turn(ClipStream(shards, 1, 32, 32, **settings))


def test_a_stream_reads_everything_once_a_round_in_another_order(shards: Path) -> None:
    names = everything_of(shards, held_out_share=1e-9)
    assert len(names) == len(set(names)) == 30
    runs = [key for key, _ in itertools.groupby(name.split("/")[0] for name in names)]
    assert len(runs) == 5  # tar by tar
    stream = ClipStream(shards, 1, 32, 32, held_out_share=1e-9)
    both = taken(stream, 60)
    assert both[:30] == names and sorted(both[30:]) == sorted(names) and both[30:] != names
    assert everything_of(shards, seed=1, held_out_share=1e-9) != names


def test_splits_share_nothing(shards: Path) -> None:
    train, held_out = (
        everything_of(shards, held_out_share=0.4),
        everything_of(shards, split="held-out", held_out_share=0.4),
    )
    assert len(train) + len(held_out) == 30 and not set(train) & set(held_out)


@pytest.mark.parametrize("world_size", [2, 5, 7])
def test_ranks_share_a_round(shards: Path, world_size: int) -> None:
    """With as many tars as ranks by tar, with fewer by sample; together all of it, nothing twice."""
    parts = [
        everything_of(shards, rank=rank, world_size=world_size, held_out_share=1e-9)
        for rank in range(world_size)
    ]
    assert Counter(itertools.chain(*parts)) == Counter(everything_of(shards, held_out_share=1e-9))
    tars = [{name.split("/")[0] for name in part} for part in parts]
    shared = any(one & other for one, other in itertools.combinations(tars, 2))
    assert shared == (world_size > 5)


def test_more_ranks_than_samples_take_turns(tmp_path: Path) -> None:
    pictures(tmp_path / "0.tar", 0, 2)
    for rank in range(5):
        stream = ClipStream(tmp_path, 1, 32, 32, rank=rank, world_size=5, held_out_share=1e-9)
        assert set(taken(stream, 8)) == {"0.tar/000000.png", "0.tar/000001.png"}


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_workers_share_a_round(shards: Path) -> None:
    stream = ClipStream(shards, 1, 32, 32, held_out_share=1e-9)
    loader = DataLoader(
        stream, batch_size=2, num_workers=2, collate_fn=collate_clips, multiprocessing_context="fork"
    )
    read = []
    for batch in itertools.islice(loader, 10):
        assert batch["video"].shape == (2, 3, 1, 32, 32) and batch["video"].dtype == torch.float32
        assert -1 <= batch["video"].min() <= batch["video"].max() <= 1
        read += batch["names"]
    assert len(set(read)) == len(read) == 20


@pytest.mark.parametrize("world_size", [1, 7])
def test_a_stream_goes_on_where_it_was(shards: Path, world_size: int) -> None:
    def stream() -> ClipStream:
        return ClipStream(
            shards, 1, 16, 16, resize="none", rank=0, world_size=world_size, held_out_share=1e-9
        )

    unbroken = list(itertools.islice(stream(), 40))
    for stop in (0, 1, 3, 17, 30):
        first = stream()
        for _ in itertools.islice(first, stop):
            pass
        state = json.loads(json.dumps(first.state_dict()))
        again = stream()
        again.load_state_dict(state)
        for clip, expected in zip(itertools.islice(again, 8), unbroken[stop : stop + 8], strict=True):
            assert clip.name == expected.name
            np.testing.assert_array_equal(clip.frames, expected.frames)
    with pytest.raises(InputError, match="state"):
        stream().load_state_dict({"step": 1})


def test_a_stream_leaves_out_what_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures(tmp_path / "0.tar", 0, 3)
    write_tar(tmp_path / "1.tar", [("a.png", b"broken"), ("b.png", picture_bytes()), ("c.mp4", b"broken")])
    (tmp_path / "2.tar").write_bytes(b"")
    stream = ClipStream(tmp_path, 1, 32, 32, held_out_share=1e-9)
    with caplog.at_level(logging.WARNING):
        read = taken(stream, 12)
    assert Counter(read) == dict.fromkeys([*(f"0.tar/{n:06d}.png" for n in range(3)), "1.tar/b.png"], 3)
    assert {problem.name for problem in stream.skipped} == {"1.tar/a.png", "1.tar/c.mp4", "2.tar"}
    assert len(caplog.records) == len(stream.skipped)
    empty = ClipStream(tmp_path / "2.tar", 1, 32, 32)
    with pytest.raises(MediaError, match="nothing that can be used"):
        next(iter(empty))


def test_unusable_settings_of_a_stream_are_refused(shards: Path) -> None:
    for settings, message in [
        ({"rank": 0}, "together"),
        ({"rank": 2, "world_size": 2}, "below world_size"),
        ({"split": "val"}, "split"),
        ({"strid": 2}, "stride"),
    ]:
        with pytest.raises(InputError, match=message):
            ClipStream(shards, **settings)
