"""A set of pictures and videos packed into WebDataset tars, with the metadata that `tars` reads.

Each sample is `KEY.mp4` (or whatever it is), `KEY.txt` with its caption if it has one, and `KEY.id` with its number;
the line of the tar's `.meta.jsonl` has its key, size, frame rate, duration and caption. Files go in as they are. Equal
sets give equal tars.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import InputError, MediaError
from .clips import Problem
from .decoding import one_line, probe_video
from .media_entries import PART_FIELDS, MediaEntry
from .row_conditions import CONDITIONS_FIELD
from .tars import META_ENDING, SOURCE_FIELD
from .video import read_image

PLAN_NAME = "pack.json"
"""What a folder of packed tars was made of, by which an interrupted packing goes on."""

_BLOCK = 512


@dataclass
class PackReport:
    """What was packed.

    Attributes:
        shards: The tars, those of an earlier start included.
        samples: Samples written now.
        left_out: What couldn't be read now, and isn't in the tars.
    """

    shards: list[Path] = field(default_factory=list)
    samples: int = 0
    left_out: list[Problem] = field(default_factory=list)


def plan_shards(
    entries: Sequence[MediaEntry], *, samples: int, max_bytes: int, seed: int | None = 0
) -> list[list[tuple[str, MediaEntry]]]:
    """Which entries go into which tar, each with its key.

    Args:
        entries: The set.
        samples: At most so many in a tar.
        max_bytes: A tar ends before it grows beyond this; a single larger file gets its own.
        seed: The entries are shuffled, so that each tar is a sample of the set; None keeps their order.

    Raises:
        InputError: If a limit isn't positive.
    """
    if samples < 1 or max_bytes < 1:
        raise InputError("the limits of a tar must be positive", got=f"{samples} samples, {max_bytes} bytes")
    keyed = list(zip(_keys(entries), entries, strict=True))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(len(keyed))
        keyed = [keyed[index] for index in order]
    shards: list[list[tuple[str, MediaEntry]]] = []
    filled = 0
    for key, entry in keyed:
        size = _size(entry)
        if not shards or len(shards[-1]) == samples or filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((key, entry))
        filled += size
    return shards


def pack(
    plan: Sequence[Sequence[tuple[str, MediaEntry]]],
    folder: Path,
    *,
    resume: bool = False,
    advance: Callable[[], Any] = lambda: None,
) -> PackReport:
    """Write tars `000000.tar`, ... with their metadata into a folder.

    Each is written under a temporary name and renamed when it is whole, after its metadata. What can't be read is left
    out and listed.

    Args:
        plan: What `plan_shards` gave.
        folder: A new or empty folder.
        resume: Go on in a folder where packing was interrupted: tars that are there stay as they are.
        advance: Called after each entry, for a progress bar.

    Raises:
        InputError: If the folder isn't empty and `resume` is False, or it was begun with another set or settings.
        MediaError: If the folder can't be written.
    """
    _begin(folder, plan, resume)
    report = PackReport()
    for number, keyed in enumerate(plan):
        shard = folder / f"{number:06d}.tar"
        report.shards.append(shard)
        if shard.exists():
            for _ in keyed:
                advance()
            continue
        try:
            report.samples += _write_shard(shard, keyed, report.left_out, advance)
        except OSError as error:
            raise MediaError(f"{shard} could not be written", got=error.strerror or error) from error
    return report


def _begin(folder: Path, plan: Sequence[Sequence[tuple[str, MediaEntry]]], resume: bool) -> None:
    made_of = {"set": _fingerprint(plan), "tars": len(plan)}
    note = folder / PLAN_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_new = not any(folder.iterdir())
        if is_new:
            _write(note, json.dumps(made_of).encode())
        begun = json.loads(note.read_bytes()) if note.exists() else None
    except OSError as error:
        raise MediaError(f"{folder} can't be written", got=error.strerror or error) from error
    except ValueError:
        begun = None
    if not is_new and not resume:
        raise InputError(
            f"{folder} isn't empty",
            fix="choose a new folder, or --resume to go on with an interrupted packing",
        )
    if begun != made_of:
        raise InputError(
            f"{folder} was begun with another set or other settings", fix="pack into a new folder"
        )
    for leftover in folder.glob(".*.part"):
        leftover.unlink(missing_ok=True)


def _write_shard(
    shard: Path, keyed: Sequence[tuple[str, MediaEntry]], left_out: list[Problem], advance: Callable[[], Any]
) -> int:
    lines = []
    temporary = _temporary(shard)
    try:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for number, (key, entry) in enumerate(keyed):
                try:
                    content, facts = _read(entry)
                    facts |= _conditions(entry)
                except (MediaError, OSError) as error:
                    left_out.append(Problem(entry.name, one_line(error)))
                else:
                    _add(tar, f"{key}{PurePosixPath(entry.name).suffix.lower()}", content)
                    if entry.caption:
                        _add(tar, f"{key}.txt", entry.caption.encode())
                    _add(tar, f"{key}.id", str(number).encode())
                    caption = {"caption": entry.caption} if entry.caption else {}
                    fields = {"key": key, **facts, **caption, **_part(entry)}
                    lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
                advance()
        _write(shard.with_suffix(META_ENDING), "".join(lines).encode())
        temporary.replace(shard)
    finally:
        temporary.unlink(missing_ok=True)
    return len(lines)


def _read(entry: MediaEntry) -> tuple[bytes, dict[str, Any]]:
    """A file's content and what its header says. Raises `MediaError` or `OSError` if it can't be read."""
    source = entry.open()
    content = source.read_bytes() if isinstance(source, Path) else source.read()
    try:
        if entry.is_picture:
            height, width = read_image(io.BytesIO(content)).shape[:2]
            return content, {"width": width, "height": height}
        facts = probe_video(io.BytesIO(content))
    except MediaError:
        raise
    except Exception as error:  # decoders meet damaged files with errors of any kind
        raise MediaError("it can't be read", got=f"{type(error).__name__}: {one_line(error)}") from error
    numbers = {"fps": round(facts.frame_rate or 0.0, 6), "duration": round(facts.seconds, 6)}
    return content, {"width": facts.width, "height": facts.height, **numbers}


def _part(entry: MediaEntry) -> dict[str, Any]:
    """What metadata say of an entry that is a part of its file."""
    if entry.part is None:
        return {}
    named = {name: getattr(entry.part, name) for name in PART_FIELDS}
    return {name: value for name, value in named.items() if value not in (None, 0.0)} | {
        SOURCE_FIELD: entry.key
    }


def _conditions(entry: MediaEntry) -> dict[str, Any]:
    """What metadata say of an entry's conditions. Raises `MediaError` if files go with the entry."""
    if entry.files_beside:
        names = ", ".join(file.name for file in entry.files_beside)
        raise MediaError("a tar has no place for the files that go with it", got=names)
    if entry.conditions is None:
        return {}
    return {CONDITIONS_FIELD: [one.as_row() for one in entry.conditions]}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # without time, owner and rights of the file: equal sets give equal tars
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _keys(entries: Sequence[MediaEntry]) -> Iterator[str]:
    """A key for each entry: its own, without dots, which would end it, and without leading anywhere."""
    given: set[str] = set()
    for entry in entries:
        parts = [part for part in PurePosixPath(entry.key).parts if part not in ("/", "..", ".")]
        base = "/".join(parts).replace(".", "_") or "sample"
        key, number = base, 2
        while key in given:
            key, number = f"{base}-{number}", number + 1
        given.add(key)
        yield key


def _size(entry: MediaEntry) -> int:
    """Bytes that an entry takes in a tar, about; a missing file takes none."""
    try:
        content = entry.span[1] if entry.span is not None else entry.path.stat().st_size
    except OSError:
        return 0
    return content + 4 * _BLOCK


def _fingerprint(plan: Sequence[Sequence[tuple[str, MediaEntry]]]) -> str:
    digest = hashlib.sha256()
    for keyed in plan:
        for key, entry in keyed:
            digest.update(
                repr((key, entry.name, entry.caption, _size(entry))).encode("utf-8", "backslashreplace")
            )
            if entry.part is not None:
                digest.update(repr(entry.part).encode())
            if entry.conditions is not None:
                digest.update(repr(entry.conditions).encode())
        digest.update(b"end of tar")
    return digest.hexdigest()


def _write(path: Path, content: bytes) -> None:
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
