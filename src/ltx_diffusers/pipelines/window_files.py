"""Windows of a long video kept on the disk, so that an interrupted video can be gone on with."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError, MediaError

PLAN_FILE = "long_video.json"


class WindowFiles:
    """A folder with the latents of the windows that are done, one safetensors file each.

    Args:
        folder: Made if it isn't there.
        plan: What the video is made from, as JSON. A folder with windows of another plan is refused.

    Raises:
        InputError: If the folder holds something else than windows of this video.
        MediaError: If it can't be read or written.
    """

    def __init__(self, folder: str | Path, plan: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        text = json.dumps(plan, indent=1, sort_keys=True)
        record = self.folder / PLAN_FILE
        try:
            if record.is_file():
                if record.read_text(encoding="utf-8") == text:
                    return
                if self._done():
                    raise InputError(
                        f"{self.folder} holds windows of another video",
                        fix="delete it, or go on with the same settings, seed and model",
                    )
            elif self.folder.exists() and (not self.folder.is_dir() or self._holds_others()):
                raise InputError(
                    f"{self.folder} is needed for the video's windows", expected="nothing, or an empty folder"
                )
            self.folder.mkdir(exist_ok=True)
            _write(record, lambda file: file.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise MediaError(f"{self.folder} can't be used", got=error.strerror) from error

    def load(self, number: int) -> Tensor | None:
        """The latents of a window, float32 on the CPU; None if it isn't done.

        Raises:
            MediaError: If its file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(number)
        if not path.is_file():
            return None
        try:
            return load_file(path)["latents"]
        except (OSError, SafetensorError, KeyError) as error:
            raise MediaError(f"{path} can't be read", got=error, fix="delete it") from error

    def save(self, number: int, latents: Tensor) -> None:
        """Keep the latents of a window.

        Raises:
            MediaError: If its file can't be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self._path(number)
        kept = {"latents": latents.float().cpu().contiguous()}
        try:
            _write(path, lambda file: save_file(kept, file))
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MediaError(f"{path} could not be written", got=reason) from error

    def remove(self) -> None:
        """Delete the windows and, if nothing else is in it, the folder."""
        for path in [*self._done(), *self._unfinished(), self.folder / PLAN_FILE]:
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _done(self) -> list[Path]:
        return list(self.folder.glob("window_*.safetensors"))

    def _unfinished(self) -> list[Path]:
        """Files that a run was writing when it was killed."""
        return list(self.folder.glob(".*.part"))

    def _holds_others(self) -> bool:
        return bool(set(self.folder.iterdir()).difference(self._unfinished()))

    def _path(self, number: int) -> Path:
        return self.folder / f"window_{number:05d}.safetensors"


def digest(value: Any) -> str:
    """SHA-256 of what a call is made from: numbers, texts, pictures, arrays, tensors, and collections of them.

    An object of another kind counts by its class and by its settings: the fields of a dataclass, Diffusers' config, or
    its attributes. What such attributes hold counts by its class alone, unless it is one of the above.
    """
    running = hashlib.sha256()
    _feed(running, value)
    return running.hexdigest()


def _feed(running: Any, value: Any, within_object: bool = False) -> None:
    running.update(type(value).__name__.encode() + b"\0")
    if isinstance(value, Image.Image):
        value = np.asarray(value)
    if isinstance(value, Tensor):
        value = value.detach().float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()
    if isinstance(value, np.ndarray):
        running.update(f"{value.dtype} {value.shape}".encode())
        running.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _feed(running, str(key))
            _feed(running, value[key], within_object)
    elif isinstance(value, (list, tuple)):
        running.update(str(len(value)).encode())
        for entry in value:
            _feed(running, entry, within_object)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            _feed(running, getattr(value, field.name), within_object)
    elif value is None or isinstance(value, (str, int, float, bool, torch.dtype)):
        running.update(repr(value).encode())
    elif not within_object and hasattr(value, "__dict__"):
        _feed(running, _settings_of(value), within_object=True)


def _settings_of(value: Any) -> dict[str, Any]:
    """What an object was made with, as far as it tells; Diffusers' own remarks in a config aren't that."""
    config = getattr(value, "config", None)
    if isinstance(config, Mapping):
        return {name: entry for name, entry in config.items() if not name.startswith("_")}
    return vars(value)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
