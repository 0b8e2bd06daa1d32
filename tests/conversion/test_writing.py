"""The streaming writer against the safetensors library, and targets that are whole or absent."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx_diffusers.conversion.writing import (
    PlannedTensor,
    new_file,
    new_folder,
    parse_size,
    split_into_shards,
    write_safetensors,
    write_sharded,
)
from ltx_diffusers.errors import CheckpointError, InputError

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.int16, torch.uint16,
    torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.complex64, torch.float64,
    torch.int64, torch.uint64,
]  # fmt: skip


def plan(tensors: dict[str, torch.Tensor]) -> list[PlannedTensor]:
    return [
        PlannedTensor(name, tensor.dtype, tuple(tensor.shape), lambda tensor=tensor: tensor)
        for name, tensor in tensors.items()
    ]


def every_kind() -> dict[str, torch.Tensor]:
    """Tensors of every dtype, in an order that isn't the file's, with odd sizes, scalars and empty ones."""
    tensors = {}
    for number, dtype in enumerate(DTYPES):
        values = torch.randint(0, 2, (3, 1 + number % 4))
        tensors[f"layer.{number * 7 % 16}.weight"] = values.to(dtype)
        tensors[f"a.{number}"] = torch.ones((), dtype=torch.float32).to(dtype)
    tensors['ünïcode "quoted"\n'] = torch.randn(2)
    tensors["empty"] = torch.zeros(0, 4, dtype=torch.bfloat16)
    return tensors


def test_files_are_byte_for_byte_those_of_the_safetensors_library(tmp_path: Path) -> None:
    tensors = every_kind()
    save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    write_safetensors(tmp_path / "ours", plan(tensors), {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    save_file(tensors, tmp_path / "theirs")
    write_safetensors(tmp_path / "ours", plan(tensors))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_strided_tensors_are_written_by_value(tmp_path: Path) -> None:
    tensors = {"turned": torch.randn(3, 5).T, "slice": torch.randn(8, 8)[::2, 1::3]}
    write_safetensors(tmp_path / "file", plan(tensors))
    found = load_file(tmp_path / "file")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def regions(path: Path) -> list[PlannedTensor]:
    """A file's tensors, planned to be copied; loading them fails."""
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    descriptor = os.open(path, os.O_RDONLY)
    return [
        PlannedTensor(
            name,
            getattr(torch, {"F32": "float32", "BF16": "bfloat16"}[entry["dtype"]]),
            tuple(entry["shape"]),
            lambda: pytest.fail("loaded"),
            (descriptor, start + entry["data_offsets"][0]),
        )
        for name, entry in header.items()
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux copies from file to file")
def test_bytes_are_copied_by_the_system(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(300, 1000), "a": torch.randn(7).bfloat16(), "empty": torch.zeros(0, 3)}
    save_file(tensors, tmp_path / "source")
    write_safetensors(tmp_path / "target", regions(tmp_path / "source"))
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux copies from file to file")
def test_a_source_that_is_cut_off_meanwhile_is_noticed(tmp_path: Path) -> None:
    save_file({"a": torch.randn(1000)}, tmp_path / "source")
    planned = regions(tmp_path / "source")
    os.truncate(tmp_path / "source", 2000)
    with pytest.raises(CheckpointError, match="file of a was cut off"):
        write_safetensors(tmp_path / "target", planned)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSPC])
def test_bytes_are_read_and_written_where_the_system_does_not_copy(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But a full disk is a full disk."""

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "sendfile", refuse, raising=False)
    tensor = torch.randn(5)
    planned = [PlannedTensor("a", torch.float32, (5,), lambda: tensor, (0, 0))]
    if number == errno.ENOSPC:
        with pytest.raises(OSError, match=os.strerror(number)):
            write_safetensors(tmp_path / "file", planned)
        assert list(tmp_path.iterdir()) == []
    else:
        write_safetensors(tmp_path / "file", planned)
        assert torch.equal(load_file(tmp_path / "file")["a"], tensor)


def test_metadata_and_progress(tmp_path: Path) -> None:
    done: list[int] = []
    tensors = {"a": torch.zeros(3), "b": torch.zeros(5, dtype=torch.bfloat16)}
    write_safetensors(tmp_path / "file", plan(tensors), {"config": '{"x": "é"}', "format": "pt"}, done.append)
    with safe_open(tmp_path / "file", "pt") as file:
        assert file.metadata() == {"config": '{"x": "é"}', "format": "pt"}
    assert done == [12, 10]


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    """Each tensor is gone before the next one is loaded."""
    import weakref

    held: list[weakref.ref] = []

    def load() -> torch.Tensor:
        assert all(ref() is None for ref in held)
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        return tensor

    write_safetensors(
        tmp_path / "file", [PlannedTensor(f"t{n}", torch.float32, (1000,), load) for n in range(4)]
    )
    assert len(held) == 4


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("a", torch.float32, (2,), torch.zeros(2))] * 2, "two tensors have one name; got a"),
        ([("a", torch.float32, (2,), torch.zeros(3))], "tensor a isn't what its file announced"),
        ([("a", torch.float16, (2,), torch.zeros(2))], "got torch.float32 .2,.; expected torch.float16"),
        ([("a", torch.quint8, (2,), torch.zeros(2))], "dtype can't be stored"),
        ([("__metadata__", torch.float32, (2,), torch.zeros(2))], "two tensors have one name"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, tensors: list, message: str) -> None:
    planned = [PlannedTensor(*rest, lambda tensor=tensor: tensor) for *rest, tensor in tensors]
    with pytest.raises(CheckpointError, match=message):
        write_safetensors(tmp_path / "file", planned, {"format": "pt"})
    assert list(tmp_path.iterdir()) == []


def test_shards_have_diffusers_names_and_index(tmp_path: Path) -> None:
    tensors = {f"t{number}": torch.randn(4) for number in range(5)} | {"large": torch.randn(100)}
    paths = write_sharded(tmp_path, "model", plan(tensors), 40, {"format": "pt"})
    assert [path.name for path in paths] == [f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * (5 * 4 + 100)
    assert index["weight_map"].keys() == tensors.keys()
    found = {name: load_file(tmp_path / shard)[name] for name, shard in index["weight_map"].items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_weights_below_the_shard_size_are_one_file_without_an_index(tmp_path: Path) -> None:
    assert write_sharded(tmp_path, "model", plan({"a": torch.zeros(10)}), 40) == [
        tmp_path / "model.safetensors"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_no_tensors_are_one_empty_shard() -> None:
    assert split_into_shards([], 10) == [[]]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("1.5 GB", 1_500_000_000),
        ("2MiB", 2 * 2**20),
        ("700B", 700),
        ("3kb", 3000),
        (12, 12),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("size", ["", "5", "GB", "-1GB", "0GB", "5 apples", "1e9B", 0, -3])
def test_bad_sizes(size: str | int) -> None:
    with pytest.raises(InputError, match="not a size"):
        parse_size(size)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    with pytest.raises(ZeroDivisionError), new_file(target) as partial:
        partial.write_text("half")
        assert target.read_text() == "before"
        raise ZeroDivisionError
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]
    with new_file(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(ZeroDivisionError), new_folder(target) as partial:
        (partial / "file").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with new_folder(target) as partial:
        (partial / "file").write_text("whole")
        assert not target.exists()
    assert (target / "file").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_with_content_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with new_folder(target) as partial:
        (partial / "file").write_text("first")
    with pytest.raises(OSError), new_folder(target) as partial:
        (partial / "file").write_text("second")
    assert (target / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_a_killed_run_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_text("left over, and longer than what is written now")
    (tmp_path / "folder.partial" / "deep").mkdir(parents=True)
    with new_file(tmp_path / "file") as partial, partial.open("r+") as file:
        file.write("new")
    with new_folder(tmp_path / "folder") as partial:
        assert list(partial.iterdir()) == []
    assert (tmp_path / "file").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


HOLD = """
import sys, time
from pathlib import Path
from ltx_diffusers.conversion.writing import {kind}
with {kind}(Path({target!r})) as partial:
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks")
@pytest.mark.parametrize("opener", [new_file, new_folder])
def test_two_processes_cannot_write_one_target_and_a_killed_one_frees_it(tmp_path: Path, opener) -> None:
    target = tmp_path / "target"
    code = HOLD.format(kind=opener.__name__, target=str(target))
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(InputError, match="another process is writing"), opener(target):
            pass
        assert (tmp_path / "target.partial").exists()  # the other's, so not ours to remove
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    assert not target.exists()
    with opener(target):
        pass
    assert list(tmp_path.iterdir()) == [target]
