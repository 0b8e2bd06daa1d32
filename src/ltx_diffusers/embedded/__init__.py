"""The embedded model: a small text-to-video model of the world moving-shapes, shipped as package data."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError


def embedded_model_path() -> Path:
    """Folder of the embedded model, in Diffusers' layout.

    Raises:
        InputError: If this installation was made without the package data.
    """
    folder = Path(__file__).parent / "model"
    if not (folder / "model_index.json").is_file():
        raise InputError(
            "this installation has no embedded model",
            expected=folder,
            fix="install the package with its data, or give --model",
        )
    return folder
