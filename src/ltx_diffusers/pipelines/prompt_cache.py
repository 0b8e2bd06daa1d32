"""Features of prompts kept on disk, so that a text encoder runs once for each text, and isn't loaded if it needn't be.

An entry belongs to the tokens of a text and to the encoder's weights and settings: to all of their bytes, not to names
or dates. What is read from a damaged file is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import InputError

logger = logging.getLogger(__name__)

_VERSION = 1
"""Of the files: raised when what is in them changes its meaning."""

_DIGEST = "sha256"
_NOT_SETTINGS = ("_name_or_path", "transformers_version")


class PromptCache:
    """A folder with features of texts.

    Several processes may use it at a time: a file is written under another name, then renamed.

    Args:
        folder: It is made if there is none.

    Raises:
        InputError: If it can't be made.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError("the folder for prompts can't be made", got=f"{folder} ({error})") from None

    def features(
        self, encoder: str, ids: Tensor, mask: Tensor, encode: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Features of tokenised texts, from the folder where they are there.

        Args:
            encoder: Fingerprint of the text encoder.
            ids: Tokens (B, T) on the CPU.
            mask: Which of them count (B, T), on the CPU.
            encode: Gives features (b, T, D) of some rows of `ids` and `mask`; called at most once.

        Returns:
            Features (B, T, D): where `encode` puts them if it was called for all rows, else on the CPU.
        """
        names = [
            _digest([_VERSION, encoder, *rows])
            for rows in zip(ids.tolist(), mask.int().tolist(), strict=True)
        ]
        found = {name: self._read(name) for name in dict.fromkeys(names)}
        missing = [name for name, features in found.items() if features is None]
        if missing:
            rows = [names.index(name) for name in missing]
            made = encode(ids[rows], mask[rows])
            for name, features in zip(missing, made, strict=True):
                self._write(name, features)
                found[name] = features
            if missing == names:
                return made
        return torch.stack([found[name].cpu() for name in names])

    def fingerprint_of_files(self, files: str) -> str | None:
        """The fingerprint of an encoder that was once loaded from these files, or None if that isn't known.

        Args:
            files: What tells the files from all others, see `identity`.
        """
        try:
            known = json.loads(self._note(files).read_text())
        except (OSError, ValueError):
            return None
        return known if isinstance(known, str) else None

    def remember_files(self, files: str, encoder: str) -> None:
        """Note the fingerprint of an encoder as it was loaded from files."""
        self._put(self._note(files), json.dumps(encoder).encode())

    def _note(self, files: str) -> Path:
        return self.folder / f"{files}.json"

    def _file(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"

    def _read(self, name: str) -> Tensor | None:
        path = self._file(name)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                features, digest = file.get_tensor("features"), (file.metadata() or {}).get(_DIGEST)
            if digest == _digest_of_tensor(features):
                return features
        except (OSError, SafetensorError, ValueError):
            pass
        logger.warning("The features in %s are damaged; they are made again.", path)
        return None

    def _write(self, name: str, features: Tensor) -> None:
        features = features.detach().cpu().contiguous()
        self._put(
            self._file(name), save({"features": features}, metadata={_DIGEST: _digest_of_tensor(features)})
        )

    def _put(self, path: Path, content: bytes) -> None:
        """Write a file whole or not at all; without room for it the work goes on."""
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            path.parent.mkdir(exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError as error:
            logger.warning("Features of prompts can't be kept in %s: %s", self.folder, error)
            temporary.unlink(missing_ok=True)


def identity(folder: Path, *settings: Any) -> str:
    """What tells the files in a folder, as they are now, from all others: path, sizes and times.

    Args:
        folder: With the text encoder.
        *settings: Plain data: how it is loaded.
    """
    files = []
    for path in sorted(folder.iterdir()):
        status = path.stat()
        files.append([path.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino])
    return _digest([_VERSION, str(folder.resolve()), files, *settings])


class Fingerprint:
    """Short name of a text encoder by its weights and settings; all bytes are read once, and after a change again."""

    def __init__(self) -> None:
        self._seen: tuple[Any, str] | None = None

    def of(self, encoder: nn.Module) -> str | None:
        """The fingerprint; None if the weights aren't there to be read (on "meta", as with sequential offloading)."""
        tensors = sorted(encoder.state_dict(keep_vars=True).items())
        if any(tensor.is_meta for _, tensor in tensors):
            return None
        settings = _settings(encoder)
        state = (settings, [(name, id(tensor), tensor._version, tensor.dtype) for name, tensor in tensors])
        state = (*state, _sampled([tensor for _, tensor in tensors]))
        if self._seen is None or self._seen[0] != state:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
                digests = list(threads.map(lambda pair: _digest_of_tensor(pair[1]), tensors))
            names = [[name, digest] for (name, _), digest in zip(tensors, digests, strict=True)]
            self._seen = (state, _digest([_VERSION, settings, names]))
        return self._seen[1]


def _settings(encoder: nn.Module) -> str:
    config = getattr(encoder, "config", None)
    values = config.to_dict() if hasattr(config, "to_dict") else {}
    kept = {name: value for name, value in values.items() if name not in _NOT_SETTINGS}
    return json.dumps([type(encoder).__name__, kept], sort_keys=True, default=str)


def _sampled(tensors: list[Tensor]) -> list[float]:
    """A sum over some values of each tensor: tells of writes that PyTorch doesn't count, such as to `.data`."""
    sums = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        sums.append(flat[:: max(1, flat.numel() // 64)].double().sum())
    return torch.stack([value.cpu() for value in sums]).tolist() if sums else []


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _digest_of_tensor(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    head = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    return hashlib.sha256(head + hashlib.sha256(plain.numpy()).digest()).hexdigest()
