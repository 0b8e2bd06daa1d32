"""Records of videos: their settings in a JSON file beside them and inside them, and the way back.

No torch is imported here, so that bad input is answered at once.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from ..data.video import FORMATS, read_metadata
from ..errors import InputError, MediaError
from .conditions import GivenFile
from .settings import NO_PRESET, Settings

GENERATE = "generate"
"""The command whose records don't name theirs."""

_VERSIONS_OF = ("ltx-diffusers", "torch", "diffusers", "transformers")


def record_of(settings: Settings) -> dict[str, Any]:
    """What is stored beside a video and in it: its settings, and the versions that made it."""
    return as_json(settings) | {"versions": versions()}


def versions() -> dict[str, str]:
    """Versions of what makes videos."""
    return {name: metadata.version(name) for name in _VERSIONS_OF} | {"python": platform.python_version()}


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings that say something, as JSON knows them."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {name: _plain(value) for name, value in values.items() if _says_something(value)}


def settings_of_record(record: dict[str, Any]) -> dict[str, Any]:
    """The settings in a record, those that a `Settings` takes, also of records made before there were presets.

    Such a video was made without a preset, and with at most one picture, its first frame, without noise on it.
    """
    known = {name: value for name, value in record.items() if name in _NAMES}
    if "preset" not in record:
        known["preset"] = NO_PRESET
    if "image" in record:
        known["images"] = [{"file": record["image"], "sha256": record.get("image_sha256")}]
        known["condition_noise"] = 0.0
    return known


def record_path(output: str | os.PathLike) -> Path:
    """Where the record of a video is written: the video's name with the ending .json."""
    output = Path(output)
    return (
        output.with_suffix(".json") if output.suffix.lower() in FORMATS.values() else Path(f"{output}.json")
    )


def check_record_replaceable(path: Path) -> None:
    """Refuse to replace what isn't the record of a video.

    Raises:
        InputError: If another JSON file is there.
        MediaError: If a folder is.
    """
    if path.is_dir():
        raise MediaError(f"{path} is a folder", expected="room for the video's settings")
    if not path.exists():
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if not isinstance(known, dict) or not {"prompt", "versions"} <= set(known):
        raise InputError(
            "the settings would be written over a file that isn't a video's record",
            got=path,
            fix="choose another -o",
        )


def check_not_given(output: Path, settings: Settings) -> None:
    """Refuse to write a video over a file that it is made from.

    Raises:
        InputError: If the output is one of these files.
    """
    for given in settings.given_files():
        if output.exists() and Path(given.file).exists() and output.samefile(given.file):
            raise InputError(
                "the output is a file that the video is made from", got=output, fix="choose another -o"
            )


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, whole or not at all.

    Raises:
        MediaError: If it can't be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise MediaError(f"{path} could not be written", got=error.strerror) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_settings(path: str | os.PathLike, commands: tuple[str, ...] = (GENERATE,)) -> dict[str, Any]:
    """The settings stored in a record or inside a video, those that a `Settings` takes; see `read_record`."""
    return settings_of_record(read_record(path, commands))


def read_record(path: str | os.PathLike, commands: tuple[str, ...]) -> dict[str, Any]:
    """A record, from its file or from inside its video.

    Args:
        path: The record or the video.
        commands: Which commands' videos will do.

    Raises:
        InputError: If there are none, or another command made the video.
        MediaError: If the file is missing or unreadable.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MediaError(f"no such file: {path}") from None
        except (OSError, ValueError) as error:
            raise MediaError(f"{path} can't be read as JSON", got=error) from error
    else:
        record = read_metadata(path)
    if not isinstance(record, dict) or "prompt" not in record:
        raise InputError(
            f"{path} holds no settings", expected="a JSON file or a video that generate has written"
        )
    command = record.get("command", GENERATE)
    if command not in commands:
        raise InputError(
            f"{path} was made by ltx-diffusers {command}",
            expected=f"a video that {' or '.join(commands)} has written",
        )
    return record


_NAMES = tuple(field.name for field in fields(Settings))


def _plain(value: Any) -> Any:
    if isinstance(value, GivenFile):
        return value.record()
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _says_something(value: Any) -> bool:
    """Whether a setting isn't just left out; 0 says something."""
    return value is not None and value is not False and value != ()
