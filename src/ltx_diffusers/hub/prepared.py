"""The files of an upload, where need be converted into a temporary folder first."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from .contents import CARD, LORA, NATIVE, OFFICIAL, SINGLE_FILE, is_document
from .layouts import Files, ModelFolder, files_in_layout

_LORA_FILE = "pytorch_lora_weights.safetensors"


def converted_name(model: ModelFolder, asked: str | None, layout: str, repository: str) -> str | None:
    """Name of the one weight file that a model is converted into.

    Args:
        model: The model.
        asked: The layout that was asked for, None if any is fine.
        layout: The layout that was chosen.
        repository: `owner/name`; official files are named after it.

    Returns:
        The name; None if the weights go as they are.
    """
    kind = model.contents.kind
    if layout == OFFICIAL:
        return None if kind == SINGLE_FILE else f"{repository.rpartition('/')[2]}.safetensors"
    return _LORA_FILE if kind == LORA and asked is not None else None


@contextmanager
def model_files(model: ModelFolder, layout: str, converted: str | None) -> Iterator[Files]:
    """The files of a model in a layout, all but the card.

    Args:
        model: The model.
        layout: The layout.
        converted: Name of the file that its weights are converted into; None leaves them as they are. The file lies
            in a temporary folder until the block ends.

    Raises:
        InputError: If the layout can't express the model, or there is no room for the file.
        CheckpointError: If the layout can't hold the model.
    """
    kind = model.contents.kind
    if converted is None:
        as_they_are = kind == LORA or layout == OFFICIAL
        yield _without_card(model.files if as_they_are else files_in_layout(model, layout))
        return
    documents = {name: path for name, path in model.files.items() if is_document(name)}
    with _temporary_folder(model) as folder:
        if kind == LORA:
            files: Files = {converted: _lora_file(model, layout, folder / converted)}
        else:
            files = {converted: _single_file(model, folder / converted), **_text_parts(model)}
        yield _without_card(files | documents)


def _lora_file(model: ModelFolder, layout: str, file: Path) -> Path:
    """A LoRA with the names of Diffusers and PEFT, or the official ones, which ComfyUI takes."""
    from ..conversion.lora.files import read_lora, write_lora

    return write_lora(read_lora(model.path), file, "comfy" if layout == OFFICIAL else "diffusers")


def _single_file(model: ModelFolder, file: Path) -> Path:
    from ..conversion.convert import convert

    convert(model.path, file, to="official")
    return file


def _text_parts(model: ModelFolder) -> Files:
    """Text encoder and tokenizer, for which official files have no place: they go beside."""
    files = files_in_layout(model, model.contents.layout or NATIVE)
    return {
        name: source for name, source in files.items() if name.startswith(("text_encoder/", "tokenizer/"))
    }


def _without_card(files: Mapping[str, Path | bytes]) -> Files:
    return {name: source for name, source in files.items() if name != CARD}


@contextmanager
def _temporary_folder(model: ModelFolder) -> Iterator[Path]:
    """A folder with room for the model's weights; beside the model if possible."""
    needed = sum(path.stat().st_size for name, path in model.files.items() if name.endswith(".safetensors"))
    for parent in (model.path.absolute().parent, Path(tempfile.gettempdir())):
        try:
            if shutil.disk_usage(parent).free < needed:
                continue
            folder = tempfile.TemporaryDirectory(prefix=".push-", dir=parent)
        except OSError:
            continue
        with folder as name:
            yield Path(name)
        return
    raise InputError(
        "there is no room for the file that is to be uploaded",
        expected=f"{needed / 1e9:.1f} GB free beside the model, or in the folder for temporary files",
    )
