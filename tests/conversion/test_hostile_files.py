"""Damaged and hostile files: always a clear error, in bounded memory, and nothing outside their folder is opened."""

from __future__ import annotations

import json
import struct
import tempfile
import tracemalloc
from pathlib import Path

import pytest
import torch
from helpers.hostile import open_or_refuse, refusal
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ltx_diffusers.conversion.safetensors_header import MAX_HEADER_BYTES
from ltx_diffusers.conversion.tensors import open_tensors
from ltx_diffusers.errors import CheckpointError

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_bytes(header: object, data: bytes = b"\0" * 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (b"\0" * 7, "too short"),
        (struct.pack("<Q", 10) + b"{}", "reach beyond its end"),
        (struct.pack("<Q", 2**63) + b"{}", "reach beyond its end"),
        (file_bytes(b"{"), "isn't readable JSON"),
        (file_bytes(b"\xff\xfe{}"), "isn't readable JSON"),
        (file_bytes(b"[" * 100_000), "isn't readable JSON"),
        (file_bytes(b'{"a": ' + b"9" * 10_000 + b"}"), "isn't readable JSON"),
        (file_bytes([]), "isn't a JSON object; got list"),
        (file_bytes({"__metadata__": {"a": 1}}, b""), "__metadata__ must map strings to strings"),
        (file_bytes({"__metadata__": []}, b""), "__metadata__ must map strings to strings"),
        (file_bytes(b'{"x": {}, "x": {}}'), "the name x is there twice"),
        (file_bytes({"x": {}}), "isn't a tensor's"),
        (file_bytes({"x": 5}), "isn't a tensor's"),
        (file_bytes({"x": ENTRY | {"dtype": "F31"}}), "unknown dtype; got F31"),
        (file_bytes({"x": ENTRY | {"dtype": ["F32"]}}), "unknown dtype"),
        (file_bytes({"x": ENTRY | {"shape": [-2]}}), "no valid shape"),
        (file_bytes({"x": ENTRY | {"shape": [True]}}), "no valid shape"),
        (file_bytes({"x": ENTRY | {"shape": [2.0]}}), "no valid shape"),
        (file_bytes({"x": ENTRY | {"shape": 2}}), "no valid shape"),
        (file_bytes({"x": ENTRY | {"shape": [1] * 1000}}), "no valid shape"),
        (file_bytes({"x": ENTRY | {"shape": [2**62, 2**62]}}), "wrong length"),
        (file_bytes({"x": ENTRY | {"shape": [3]}}), "wrong length; got 8 bytes; expected 12"),
        (file_bytes({"x": ENTRY | {"data_offsets": [8, 0]}}), "no valid place"),
        (file_bytes({"x": ENTRY | {"data_offsets": [0]}}), "no valid place"),
        (file_bytes({"x": ENTRY | {"data_offsets": [-8, 0]}}), "no valid place"),
        (file_bytes({"x": ENTRY}, b"\0" * 4), "cut off; got 4 bytes of tensors; expected 8"),
        (file_bytes({"x": ENTRY}, b"\0" * 9), "goes on after its last tensor"),
        (file_bytes({"x": ENTRY | {"data_offsets": [4, 12]}}, b"\0" * 12), "leaves a gap"),
        (file_bytes({"x": ENTRY, "y": ENTRY}), "overlaps another"),
        (file_bytes({"x": ENTRY, "y": ENTRY | {"data_offsets": [4, 12]}}, b"\0" * 12), "overlaps another"),
    ],
)
def test_a_broken_header_is_refused(content, message):
    assert message in refusal(content)


def test_a_message_stays_short():
    assert len(refusal(file_bytes({"x" * 100_000: ENTRY | {"dtype": "y" * 100_000}}))) < 1000


def test_a_long_header_isn_t_read(tmp_path):
    """A sparse file claims a header of more than the bound: it is refused before the header is read."""
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 100)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="header is too long"):
        open_tensors(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_memory_is_bounded_by_the_header(tmp_path):
    """A header full of entries takes some ten times its length, whatever the tensors claim."""
    header = {f"x{i}": {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]} for i in range(5_000)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_bytes(header))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="overlaps another"):
        open_tensors(path)
    assert tracemalloc.get_traced_memory()[1] < 30 * path.stat().st_size
    tracemalloc.stop()


def test_a_file_that_shrinks_while_it_is_open_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(100)}, path)
    with open_tensors(path) as source:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)
        with pytest.raises(CheckpointError, match="cut off while it was read"):
            source.load("x")


# Index files


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/tmp/secret.safetensors",
        "a/b.safetensors",
        "..\\x.safetensors",
        "",
        "x.bin",
        5,
        None,
    ]
    + [".safetensors", ".hidden.safetensors", "x\n.safetensors", "C:x.safetensors", "x.safetensors\0"],
)
def test_an_index_can_t_name_files_elsewhere(tmp_path, name):
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    for place in (tmp_path / "secret.safetensors", folder / "a" / "b.safetensors"):
        save_file({"x": torch.ones(2)}, place)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(CheckpointError, match="can't name"):
        open_tensors(index)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({}, "must have a weight_map"),
        (None, "must have a weight_map"),
        ({"x": "one.safetensors"}, "the tensor y of one.safetensors isn't where the index says"),
        (
            {"x": "one.safetensors", "y": "two.safetensors", "z": "two.safetensors"},
            "isn't where the index says",
        ),
        ({"x": "one.safetensors", "y": "one.safetensors", "z": "one.safetensors"}, "lacks the tensor z"),
        ({"x": "missing.safetensors"}, "there is no file"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, places, message):
    save_file({"x": torch.ones(2), "y": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"y": torch.ones(2)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=message):
        open_tensors(index)


def test_an_index_that_isn_t_json_is_refused(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for content in ("", "{", "[]", '{"weight_map": {"x": "a", "x": "b"}}', "\0", "5"):
        index.write_text(content)
        with pytest.raises(CheckpointError):
            open_tensors(index)


# Fuzzing

sizes = st.one_of(st.integers(-2, 9), st.sampled_from([2**31, 2**62, 2**63, 2**64, 2**70]))
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "F64", "Q4", "", 3, None]),
        "shape": st.one_of(st.lists(sizes, max_size=3), st.none()),
        "data_offsets": st.one_of(st.lists(sizes, min_size=2, max_size=2), st.lists(sizes, max_size=3)),
        "more": st.integers(),
    },
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
headers = st.one_of(
    st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), entries | json_values, max_size=4),
    json_values,
)
fuzz = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def safetensors_opens(content: bytes) -> bool:
    """Whether the safetensors library takes the same file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
            return True
        except (SafetensorError, ValueError, RuntimeError, OverflowError):
            return False


@fuzz
@given(st.binary(max_size=200))
@example(b"\x02" + b"\0" * 7 + b"{}")
def test_any_bytes_open_or_are_refused(content):
    open_or_refuse(content)


@fuzz
@given(headers, st.integers(0, 20))
def test_any_header_opens_or_is_refused(header, length):
    """What opens here opens in the safetensors library too: we are never laxer."""
    content = file_bytes(header, b"\1" * length)
    if open_or_refuse(content):
        assert safetensors_opens(content)


@st.composite
def honest_headers(draw):
    """A header that fits its data, and the data's length."""
    end, header = 0, {}
    for name in draw(st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=4)):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        dtype, size = draw(st.sampled_from([("F32", 4), ("BF16", 2), ("U8", 1), ("F8_E4M3", 1)]))
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return header, end


@fuzz
@given(honest_headers())
def test_every_honest_header_opens(drawn):
    header, length = drawn
    header.pop("__metadata__", None)
    if sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values()) == length:
        assert open_or_refuse(file_bytes(header, b"\1" * length))


@fuzz
@given(st.data())
def test_a_damaged_file_opens_or_is_refused(data):
    """Bytes of a real file are changed, and it is cut off anywhere."""
    header = {"__metadata__": {"a": "b"}, "x": ENTRY, "y": ENTRY | {"data_offsets": [8, 16]}}
    content = bytearray(file_bytes(header, bytes(16)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    open_or_refuse(bytes(content[: data.draw(st.integers(0, len(content)))]))


@fuzz
@given(json_values)
def test_any_index_is_refused(content):
    """None of these names a shard that exists."""
    assert not open_or_refuse(json.dumps(content).encode(), ".safetensors.index.json")
