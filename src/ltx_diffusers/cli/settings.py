"""What makes a video: the settings that `generate` checks, records beside the video, and reads back to repeat it.

No torch is imported here, so that bad input is answered at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import uuid
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from ..data.video import FORMATS, read_metadata
from ..errors import InputError, MediaError
from ..geometry import check_video_size

DTYPES = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
"""Names of dtypes and what they are short for."""

_VERSIONS_OF = ("ltx-diffusers", "torch", "diffusers", "transformers")
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Settings:
    """Everything that a generated video depends on. None stands for the model's default.

    Attributes:
        prompt: What the video shows.
        negative_prompt: What it should not show.
        seed: Of all random draws.
        model: "embedded", a folder, a repository `owner/name`, or a checkpoint file.
        text_encoder: For a checkpoint file: folder or repository with its text encoder and tokenizer.
        version: For a checkpoint file: its release, where it can't tell.
        image: File of the first frame.
        image_sha256: Hash of that file when the video was made.
        width, height: In pixels, multiples of 32.
        num_frames: 8k + 1.
        frame_rate: Frames per second.
        num_inference_steps: Denoising steps.
        guidance_scale: Classifier-free guidance; 1 turns it off.
        decode_timestep, decode_noise_scale: Noise level of a denoising decoder.
        dtype: Of the models, a key of `DTYPES`.
    """

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    model: str = "embedded"
    text_encoder: str | None = None
    version: str | None = None
    image: str | None = None
    image_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    frame_rate: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    decode_timestep: float | None = None
    decode_noise_scale: float | None = None
    dtype: str | None = None

    def check(self) -> None:
        """Check the values without loading anything.

        Raises:
            InputError: If a value can't be used.
            MediaError: If the first frame's file is missing or isn't the one that the video was made with.
        """
        texts = (
            "prompt",
            "negative_prompt",
            "model",
            "text_encoder",
            "version",
            "image",
            "image_sha256",
            "dtype",
        )
        for name in texts:
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name in ("prompt", "model")):
                raise InputError(f"{name} must be a text", got=repr(value))
        self._check_numbers()
        if (self.width is None) != (self.height is None):
            raise InputError("width and height must be given together", got=f"{self.width} and {self.height}")
        sides = {"height": self.height, "width": self.width}
        size = {name: 32 if side is None else side for name, side in sides.items()}
        check_video_size(frames=1 if self.num_frames is None else self.num_frames, **size)
        check_dtype(self.dtype)
        made_with = None if self.image is None else self.image_sha256
        if made_with is not None and file_hash(self.image) != made_with:
            raise MediaError(f"{self.image} isn't the image that the video was made with", fix="give --image")

    def _check_numbers(self) -> None:
        inf = math.inf
        for name, kind, low, high, range_text in (
            ("seed", int, 0, _MAX_SEED, f"a whole number from 0 to {_MAX_SEED}"),
            ("width", int, 1, inf, "a whole number of pixels"),
            ("height", int, 1, inf, "a whole number of pixels"),
            ("num_frames", int, 1, inf, "a whole number of at least 1"),
            ("num_inference_steps", int, 1, inf, "a whole number of at least 1"),
            ("frame_rate", float, 0.1, 1000, "a number from 0.1 to 1000 frames per second"),
            ("guidance_scale", float, 0, 1e6, "a number of at least 0; 1 is off"),
            ("decode_timestep", float, 0, 1, "a number from 0 to 1"),
            ("decode_noise_scale", float, 0, 1, "a number from 0 to 1"),
        ):
            value = getattr(self, name)
            kinds = (int, float) if kind is float else int
            if value is not None and (
                not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high
            ):
                raise InputError(
                    f"{_SPOKEN.get(name, name)} can't be used", got=repr(value), expected=range_text
                )


_SPOKEN = {
    "frame_rate": "this frame rate (--fps)",
    "num_frames": "this number of frames (--frames)",
    "num_inference_steps": "this number of steps (--steps)",
    "guidance_scale": "this guidance (--guidance)",
}


def check_dtype(name: str | None) -> None:
    """Check the name of a dtype; None is the default one.

    Raises:
        InputError: If there is no such dtype.
    """
    if name is not None and name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}", expected=f"one of {', '.join(DTYPES)}")


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels from "WxH".

    Raises:
        InputError: If the text isn't of that form.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX]\s*(\d{1,6})\s*", text)
    if match is None:
        raise InputError("the size can't be read", got=repr(text), expected="WIDTHxHEIGHT, like 704x480")
    return int(match[1]), int(match[2])


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        MediaError: If it can't be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise MediaError(f"no such image: {path}") from None
    except OSError as error:
        raise MediaError(f"{path} can't be read", got=error.strerror) from error


def record_of(settings: Settings) -> dict[str, Any]:
    """What is stored beside a video and in it: its settings, and the versions that made it."""
    record = {name: value for name, value in asdict(settings).items() if value is not None}
    versions = {name: metadata.version(name) for name in _VERSIONS_OF}
    return record | {"versions": versions | {"python": platform.python_version()}}


def record_path(output: str | os.PathLike) -> Path:
    """Where the record of a video is written: the video's name with the ending .json."""
    output = Path(output)
    return (
        output.with_suffix(".json") if output.suffix.lower() in FORMATS.values() else Path(f"{output}.json")
    )


def check_record_replaceable(path: Path) -> None:
    """Refuse to replace a JSON file that isn't the record of a video.

    Raises:
        InputError: If such a file is there.
    """
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


def read_settings(path: str | os.PathLike) -> dict[str, Any]:
    """The settings stored in a record, or inside a video that `generate` made; those that a `Settings` takes.

    Raises:
        InputError: If there are none.
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
    known = {field.name for field in fields(Settings)}
    return {name: value for name, value in record.items() if name in known}
