"""FILE[@FRAME][:STRENGTH]: what is read from it, whatever the file is called."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ltx_diffusers.cli.conditions import (
    GivenFile,
    file_hash,
    given_file,
    parse_file,
    parse_lora,
    parse_span,
)
from ltx_diffusers.errors import InputError, MediaError

HERE = ["a.png", "b@5.png", "c.png@5", "d:0.5", "e.png:1", "me@home/f.png", "a b@c:d.png", "frames@2/x", "g"]

READ = {
    "a.png": ("a.png", 0, 1.0),
    "a.png@5": ("a.png", 5, 1.0),
    "a.png:0.5": ("a.png", 0, 0.5),
    "a.png@16:.25": ("a.png", 16, 0.25),
    "a.png@-1": ("a.png", -1, 1.0),
    "a.png@last:0": ("a.png", -1, 0.0),
    "b@5.png": ("b@5.png", 0, 1.0),
    "b@5.png@7:1": ("b@5.png", 7, 1.0),
    "c.png@5": ("c.png@5", 0, 1.0),
    "c.png@5:0.5": ("c.png@5", 0, 0.5),
    "c.png@5@9": ("c.png@5", 9, 1.0),
    "d:0.5": ("d:0.5", 0, 1.0),
    "d:0.5:0.25": ("d:0.5", 0, 0.25),
    "e.png:1@8": ("e.png:1", 8, 1.0),
    "me@home/f.png@8:0.5": ("me@home/f.png", 8, 0.5),
    "a b@c:d.png@8:0.5": ("a b@c:d.png", 8, 0.5),
    "frames@2@8": ("frames@2", 8, 1.0),
    "g@8": ("g", 8, 1.0),
    # Files that don't exist: found missing where they are read, under the name that is meant.
    "none.png@8:0.5": ("none.png", 8, 0.5),
    "none@here.png:1": ("none@here.png", 0, 1.0),
    "none.png@eight": ("none.png@eight", 0, 1.0),
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in HERE:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize("text", READ)
def test_reads(text: str) -> None:
    assert parse_file(text) == GivenFile(*READ[text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png@", "frame"),
        ("a.png@x", "'x'"),
        ("a.png@1.5", "'1.5'"),
        ("a.png:", "strength"),
        ("a.png:2", "0 to 1"),
        ("a.png:nan", "0 to 1"),
        ("a.png:0.5@3", "FILE"),
        ("a.png@3@4", "FILE"),
        ("a.png:1:1", "FILE"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_file(text)


def test_refuses_what_may_not_be_said() -> None:
    with pytest.raises(InputError, match=r"expected FILE\[:STRENGTH\]"):
        parse_file("a.png@3", frame=False)
    with pytest.raises(InputError, match="expected FILE$"):
        parse_file("a.png:0.5", frame=False, strength=False)


def test_texts_that_cannot_be_names() -> None:
    long = "x" * 5000
    assert parse_file(f"{long}@3").file == long
    assert parse_file("a\0b").file == "a\0b"


def test_objects_in_records_and_lists() -> None:
    given = GivenFile("a.png", 8, 0.5, "abc")
    assert given.record() == {"file": "a.png", "frame": 8, "strength": 0.5, "sha256": "abc"}
    assert given_file(given.record(), "images") == given
    assert GivenFile("a.png").record() == {"file": "a.png"}
    assert given_file("a.png@8", "images") == GivenFile("a.png", 8)
    with pytest.raises(InputError, match="unknown field of images; got frames"):
        given_file({"file": "a.png", "frames": 3}, "images")
    for value in (3, {"frame": 3}, None):
        with pytest.raises(InputError, match="images can't be read"):
            given_file(value, "images")


@pytest.mark.parametrize(
    "given", [GivenFile("a.png", 1.5), GivenFile("a.png", True), GivenFile("a.png", 0, "1"), GivenFile(3)]
)
def test_values_of_a_record_are_checked(given: GivenFile) -> None:
    with pytest.raises(InputError):
        given.check()


def test_a_file_is_known_by_its_content() -> None:
    Path("a.png").write_text("one")
    hashed = GivenFile("a.png").hashed()
    hashed.check()
    Path("a.png").write_text("two")
    with pytest.raises(MediaError, match="isn't the file"):
        hashed.check()
    before = file_hash("frames@2")
    Path("frames@2/x").write_text("other")
    assert file_hash("frames@2") != before
    Path("frames@2/x").rename("frames@2/y")
    Path("frames@2/y").write_text("")
    assert file_hash("frames@2") != before
    with pytest.raises(MediaError, match="no such file"):
        file_hash("none")


def test_spans() -> None:
    assert parse_span("0.5-1.5") == (0.5, 1.5)
    assert parse_span(" 2 - ") == (2, math.inf)
    assert parse_span("-.5") == (0, 0.5)
    for text in ("", "-", "1", "a-b", "1-2-3", "2-1", "1-1", "-1-2"):
        with pytest.raises(InputError, match="span of time"):
            parse_span(text)


def test_loras() -> None:
    assert parse_lora("a.png") == ("a.png", 1.0)
    assert parse_lora("a.png:-0.5") == ("a.png", -0.5)
    assert parse_lora("d:0.5:0.25") == ("d:0.5", 0.25)
    assert parse_lora("owner/name:0.7") == ("owner/name", 0.7)
    assert parse_lora("owner/name") == ("owner/name", 1.0)
    for text in ("a.png:x", "a.png:", "a.png@3", "owner/name:inf"):
        with pytest.raises(InputError, match="weight of the LoRA"):
            parse_lora(text)
