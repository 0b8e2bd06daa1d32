"""Opening files that mean harm."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from ltx_diffusers.conversion.tensors import open_tensors
from ltx_diffusers.errors import CheckpointError


def refusal(content: bytes, name: str = "x.safetensors") -> str:
    """The message of the error that opening a file with this content gives."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            open_tensors(path)
        return str(error.value)


def open_or_refuse(content: bytes, ending: str = ".safetensors") -> bool:
    """Whether a file opens; if it does, its tensors must load, and be no larger than the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{ending}"
        path.write_bytes(content)
        try:
            source = open_tensors(path)
        except CheckpointError:
            return False
        with source:
            assert sum(source.info(name).nbytes for name in source.names()) <= len(content)
            for name in source.names():
                tensor = source.load(name)
                assert tuple(tensor.shape) == source.info(name).shape
        return True
