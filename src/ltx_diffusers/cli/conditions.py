"""Files that a video is made from, as they are written on the command line: FILE[@FRAME][:STRENGTH].

File names may contain @ and : themselves. So the longest beginning of the text that exists as a file or folder is
the file, and what follows it must be a frame and a strength. No torch is imported here, so that bad input is
answered at once.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InputError, MediaError

LAST = -1
"""The video's last frame."""

_FORM = "FILE[@FRAME][:STRENGTH]"
_MODIFIERS = re.compile(r"(?:@(?P<frame>[^@:]*))?(?::(?P<strength>[^@:]*))?")
_MISSING_FILE = re.compile(r"(?P<file>.+?)(?:@(?:-?\d+|last))?(?::\d*\.?\d+)?")
_PART_BYTES = 1 << 20


@dataclass(frozen=True)
class GivenFile:
    """A picture, a clip or a mask that a video is made from.

    Attributes:
        file: Where it is; a clip may be a folder of frames.
        frame: Frame of the video where it begins; negative numbers count from the end, as in `VideoCondition`.
        strength: How strongly it is given, 0 to 1.
        sha256: Hash of the file when a video was made with it.
    """

    file: str
    frame: int = 0
    strength: float = 1.0
    sha256: str | None = None

    def hashed(self) -> GivenFile:
        """The same with the file's hash.

        Raises:
            MediaError: If the file can't be read.
        """
        return GivenFile(self.file, self.frame, self.strength, file_hash(self.file))

    def check(self) -> None:
        """Check the values, and that the file is the one that the hash belongs to.

        Raises:
            InputError: If a value can't be used.
            MediaError: If the file can't be read, or is another one.
        """
        if not isinstance(self.file, str) or not self.file:
            raise InputError("a file's name must be a text", got=repr(self.file))
        if not isinstance(self.frame, int) or isinstance(self.frame, bool):
            raise InputError(f"the frame of {self.file} must be a whole number", got=repr(self.frame))
        if not _is_strength(self.strength):
            raise InputError(
                f"the strength of {self.file} can't be used",
                got=repr(self.strength),
                expected="a number from 0 to 1",
            )
        if self.sha256 is not None and file_hash(self.file) != self.sha256:
            raise MediaError(
                f"{self.file} isn't the file that the video was made with", fix="give it as an option again"
            )

    def record(self) -> dict[str, Any]:
        """What is stored of it; values that nobody set are left out."""
        return {name: value for name, value in asdict(self).items() if value not in _UNSET[name]}


_UNSET = {"file": (), "frame": (0,), "strength": (1.0,), "sha256": (None,)}


def parse_file(text: str, *, frame: bool = True, strength: bool = True) -> GivenFile:
    """A file with a frame and a strength from FILE[@FRAME][:STRENGTH].

    Args:
        text: What the user wrote. FRAME is a number, negative from the end, or "last".
        frame: Whether a frame may be given.
        strength: Whether a strength may be given.

    Returns:
        The file; whether it exists is found where it is read.

    Raises:
        InputError: If what follows the file isn't of that form.
    """
    file, rest = split_file(text)
    form = "FILE" + "[@FRAME]" * frame + "[:STRENGTH]" * strength
    match = _MODIFIERS.fullmatch(rest)
    if match is None or (match["frame"] and not frame) or (match["strength"] and not strength):
        raise InputError(f"what follows {file} can't be read", got=repr(rest), expected=form)
    return GivenFile(file, _frame(match["frame"], file), _strength(match["strength"], file))


def split_file(text: str) -> tuple[str, str]:
    """The file in a text and what follows it: the longest beginning that exists; else what looks most like a file."""
    if _exists(text):
        return text, ""
    for place in reversed([match.start() for match in re.finditer("[@:]", text)]):
        if place and _exists(text[:place]):
            return text[:place], text[place:]
    match = _MISSING_FILE.fullmatch(text)
    file = text if match is None else match["file"]
    return file, text[len(file) :]


def given_file(value: Any, name: str, *, frame: bool = True, strength: bool = True) -> GivenFile:
    """A file as it may stand in a record or a list of prompts: a text as on the command line, or an object.

    Args:
        value: Text, object with the fields of `GivenFile`, or a `GivenFile`.
        name: Of the setting, for messages.
        frame: Whether a frame may be given.
        strength: Whether a strength may be given.

    Raises:
        InputError: If it is neither, or has other fields.
    """
    if isinstance(value, GivenFile):
        return value
    if isinstance(value, str):
        return parse_file(value, frame=frame, strength=strength)
    if isinstance(value, Mapping) and "file" in value:
        known = [field.name for field in fields(GivenFile)]
        unknown = [key for key in value if key not in known]
        if unknown:
            raise InputError(
                f"unknown field of {name}", got=unknown[0], expected=f"one of {', '.join(known)}"
            )
        return GivenFile(**value)
    raise InputError(f"{name} can't be read", got=repr(value), expected=f"{_FORM} or an object with a file")


def parse_span(text: str) -> tuple[float, float]:
    """Begin and end in seconds from "BEGIN-END"; either may be left out.

    Raises:
        InputError: If the text isn't of that form, or the span is empty.
    """
    number = r"\d+(?:\.\d*)?|\.\d+"
    match = re.fullmatch(rf"\s*({number})?\s*-\s*({number})?\s*", text)
    if match is None or (match[1] is None and match[2] is None):
        raise InputError(
            "the span of time can't be read", got=repr(text), expected="BEGIN-END in seconds, like 1.5-3"
        )
    begin, end = float(match[1] or 0), math.inf if match[2] is None else float(match[2])
    if not begin < end:
        raise InputError("the span of time is empty", got=repr(text), expected="a begin before the end")
    return begin, end


def parse_lora(text: str) -> tuple[str, float]:
    """A LoRA's file, folder or repository, and its weight, from LORA[:WEIGHT].

    Raises:
        InputError: If the weight can't be read.
    """
    file, rest = split_file(text)
    if not _exists(file):
        file, colon, weight = text.rpartition(":")
        file, rest = (file, colon + weight) if file else (text, "")
    try:
        weight = float(rest.removeprefix(":")) if rest else 1.0
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or (rest and not rest.startswith(":")):
        raise InputError(
            f"the weight of the LoRA {file} can't be read", got=repr(rest), expected="LORA[:WEIGHT]"
        )
    return file, weight


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files, in hexadecimal.

    Raises:
        MediaError: If it can't be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for file in sorted(entry for entry in path.iterdir() if entry.is_file()):
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
                _update(digest, file)
        else:
            _update(digest, path)
    except FileNotFoundError:
        raise MediaError(f"no such file: {path}") from None
    except OSError as error:
        raise MediaError(f"{path} can't be read", got=error.strerror) from error
    return digest.hexdigest()


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a text that can't be a name: too long, or with a null character
        return False


def _update(digest: Any, file: Path) -> None:
    with file.open("rb") as opened:
        while part := opened.read(_PART_BYTES):
            digest.update(part)


def _frame(text: str | None, file: str) -> int:
    if text is None:
        return 0
    if text == "last":
        return LAST
    if re.fullmatch(r"-?\d{1,9}", text) is None:
        raise InputError(f"the frame of {file} can't be read", got=repr(text), expected="a number, or last")
    return int(text)


def _strength(text: str | None, file: str) -> float:
    if text is None:
        return 1.0
    try:
        strength = float(text)
    except ValueError:
        strength = math.nan
    if not _is_strength(strength):
        raise InputError(
            f"the strength of {file} can't be read", got=repr(text), expected="a number from 0 to 1"
        )
    return strength


def _is_strength(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
