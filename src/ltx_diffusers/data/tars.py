"""WebDataset tars: what lies where in them, read from their headers alone.

A sample is a run of members whose names agree up to the first dot of the last part: `dir/0001.mp4`, `dir/0001.txt`,
`dir/0001.json`. Beside `000000.tar` there may be a `000000.meta.jsonl` with an object for each sample, named by its
`key`, as the training data of SSVAE has it; one `meta.jsonl` may speak for all tars of a folder. Nothing is ever
unpacked to the disk.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import MediaError
from .clips import Problem
from .media_entries import MediaEntry, caption_in, facts_in, is_media, is_picture, part_in
from .row_conditions import conditions_in

META_ENDING = ".meta.jsonl"
"""A tar's metadata lie beside it under its name with this ending."""

SHARED_META = "meta.jsonl"
"""Metadata of all tars of a folder that have none of their own."""

SOURCE_FIELD = "source_key"
"""What samples that are parts of one file have in common, so that all of them are held out or none."""

_LONGEST_TEXT = 2**20  # bytes of a caption or of a sample's own metadata
_MOST_NUMBERS = 10**6  # names that one pattern may stand for
_BLOCK = 512


@dataclass
class _Sample:
    key: str
    media: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


def find_shards(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The tars that a name, a folder, a pattern like `shards/{000000..000099}.tar`, or a list of these stands for.

    Raises:
        MediaError: If one of them isn't there, is compressed, or a folder holds none.
    """
    if not isinstance(path, str | Path):
        shards = [shard for one in path for shard in find_shards(one)]
        if not shards:
            raise MediaError("no tars are named")
        return list(dict.fromkeys(shards))
    path = Path(path)
    if path.is_dir():
        shards = sorted(shard for shard in path.rglob("*.tar") if shard.is_file())
        if not shards:
            raise MediaError(f"the folder {path} has no tars", expected="files that end in .tar")
        return shards
    shards = [Path(name) for name in _expand(str(path))]
    for shard in shards:
        if not shard.is_file():
            raise MediaError(f"there is no tar {shard}")
        if shard.suffix != ".tar":
            raise MediaError("a shard isn't a plain tar", got=shard, fix="unpack compressed ones to .tar")
    return shards


def index_shard(shard: Path) -> tuple[list[MediaEntry], list[Problem]]:
    """The samples of a tar in its order, with their places, captions and metadata, and what is wrong with it.

    A damaged tar gives what comes before the damage.
    """
    problems: list[Problem] = []
    entries: dict[str, MediaEntry] = {}
    metadata, lines = _metadata(shard)
    problems += lines
    for sample in _samples(shard, problems):
        name = f"{shard.name}/{sample.key}"
        if sample.key in entries:
            problems.append(Problem(name, "its key was there before in this tar"))
            continue
        ending = _best_media(sample)
        if ending is None:
            problems.append(Problem(name, "it has no picture or video"))
            continue
        own, caption = {}, ""
        try:
            own, caption = _own_texts(sample)
        except ValueError as error:
            problems.append(Problem(name, f"its own text or JSON is unusable: {error}"))
        fields = {**metadata.get(sample.key, {}), **own}
        try:
            part, conditions = part_in(fields), conditions_in(fields)
        except ValueError as error:
            problems.append(Problem(name, f"{error}; it is left out"))
            continue
        member = sample.media[ending]
        entries[sample.key] = MediaEntry(
            name=f"{name}.{ending}",
            key=str(fields.get(SOURCE_FIELD) or sample.key),
            path=shard,
            caption=" ".join((caption or caption_in(fields)).split()),
            span=(member.offset_data, member.size),
            facts=facts_in(fields),
            part=part,
            conditions=conditions,
        )
    if not entries:
        problems.append(Problem(shard.name, "it has no pictures or videos"))
    if _meta_path(shard).name != SHARED_META:
        problems += [
            Problem(_meta_path(shard).name, f"there is no sample {key!r}")
            for key in metadata
            if key not in entries
        ]
    return list(entries.values()), problems


def _samples(shard: Path, problems: list[Problem]) -> Iterator[_Sample]:
    sample = _Sample("")
    for member, text in _members(shard, problems):
        folder, slash, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        key = folder + slash + stem
        if not stem or not ending:
            continue
        if key != sample.key:
            if sample.key:
                yield sample
            sample = _Sample(key)
        if text is not None:
            sample.texts[ending.lower()] = text
        elif is_media(member.name):
            sample.media[ending] = member
    if sample.key:
        yield sample


def _members(shard: Path, problems: list[Problem]) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Plain members that are whole, with the content of those that hold text."""
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    problems.append(Problem(f"{shard.name}/{member.name}", "the tar ends within it"))
                    return
                is_text = member.name.lower().endswith((".txt", ".json")) and member.size <= _LONGEST_TEXT
                yield member, tar.extractfile(member).read() if is_text else None
            _check_end(shard, tar.offset, size, problems)
    # A forged header may make the module fail in many ways.
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        problems.append(Problem(shard.name, f"it can't be read any further: {error}"))


def _check_end(shard: Path, end: int, size: int, problems: list[Problem]) -> None:
    """The module takes any damaged header but the first for the end of the tar; a real end is a block of zeros."""
    with shard.open("rb") as file:
        file.seek(max(0, min(end, size - _BLOCK)))
        block = file.read(_BLOCK)
    if end < size and block.strip(b"\0"):
        problems.append(Problem(shard.name, f"it is damaged at byte {end}; what follows is left out"))


def _best_media(sample: _Sample) -> str | None:
    """The ending of the video, else of the picture: a picture beside a video is its preview."""
    return min(sample.media, key=lambda ending: (is_picture("." + ending), ending), default=None)


def _own_texts(sample: _Sample) -> tuple[dict[str, Any], str]:
    """A sample's own metadata and caption. Raises `ValueError` if they are no JSON object or no text."""
    own = json.loads(sample.texts["json"]) if "json" in sample.texts else {}
    if not isinstance(own, dict):
        raise ValueError("the JSON isn't an object")
    return own, sample.texts.get("txt", b"").decode("utf-8")


def _meta_path(shard: Path) -> Path:
    own = shard.with_suffix(META_ENDING)
    return own if own.exists() else shard.with_name(SHARED_META)


def _metadata(shard: Path) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    path = _meta_path(shard)
    if not path.exists():
        return {}, []
    return _read_metadata(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_metadata(path: Path, _changed: int) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Objects of a metadata file by their key, and its useless lines."""
    found: dict[str, dict[str, Any]] = {}
    problems = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    key, fields = _meta_line(line)
                except (ValueError, RecursionError) as error:
                    problems.append(Problem(f"{path.name}, line {number}", str(error)[:200]))
                    continue
                if key in found:
                    problems.append(
                        Problem(f"{path.name}, line {number}", f"the key {key!r} was there before")
                    )
                else:
                    found[key] = fields
    except OSError as error:
        problems.append(Problem(path.name, f"it can't be read: {error.strerror or error}"))
    return found, problems


def _meta_line(line: bytes) -> tuple[str, dict[str, Any]]:
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError(f"it isn't an object but {type(fields).__name__}")
    key = fields.get("key")
    if not isinstance(key, str) or not key:
        raise ValueError("it has no text as its key")
    return key, fields


def _expand(pattern: str) -> list[str]:
    """`a{08..10}b` as a08b, a09b, a10b; several braces multiply. Raises `MediaError` if they are too many."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        return [pattern]
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= _MOST_NUMBERS:
        raise MediaError("a range of tars must rise, and not without end", got=found[0])
    width = len(found[1])
    return [
        name
        for number in range(first, last + 1)
        for name in _expand(f"{pattern[: found.start()]}{number:0{width}d}{pattern[found.end() :]}")
    ]
