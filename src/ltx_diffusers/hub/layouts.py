"""A model's folder as the files that go to the Hub, in the layout that is wanted.

Only JSON files differ between the native layout and Diffusers': keys and tensors are the same, so weights are never
rewritten. Paths of this machine are taken out of the configs.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError
from .contents import (
    COMPONENT,
    COMPONENT_CLASSES,
    DIFFUSERS,
    EMPTY,
    NATIVE,
    OFFICIAL,
    OTHER,
    PIPELINE,
    SINGLE_FILE,
    Contents,
    describe_files,
)
from .inspection import FolderFiles
from .sources import COMPONENT_FILE, PIPELINE_FILE

SCHEDULER_FILE = "scheduler_config.json"

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# As Diffusers records its upsampler, which lives among the pipelines.
_DIFFUSERS_LIBRARIES = {"LTXLatentUpsamplerModel": "ltx"}
_WITH_WEIGHTS = ("transformer", "vae", "text_encoder")
# Where a model was once loaded from; the names of repositories stay.
_ORIGINS = ("_name_or_path", "name_or_path")

Files = dict[str, Path | bytes]
"""Files of an upload by their path in the repository: on disk, or their content."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model that is whole.

    Attributes:
        path: The folder.
        contents: What it holds.
        files: Files of the model, its documents and samples, by name.
        left_out: Other files, which aren't uploaded.
    """

    path: Path
    contents: Contents
    files: dict[str, Path]
    left_out: tuple[str, ...]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file's object, {} if there is no such file."""
        return FolderFiles(self.path).read_json(name) if name in self.files else {}


def read_folder(path: str | Path) -> ModelFolder:
    """Find the model in a folder, and check that it is whole.

    Raises:
        InputError: If there is no model of LTX-Video in it, or one of its parts is missing.
        CheckpointError: If its weights are damaged, or are pickles only.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError("no such folder", got=str(path), expected="a folder with a model or a LoRA")
    names = [name for name in FolderFiles(folder).names() if not name.startswith(".cache/")]
    contents = describe_local(folder, names)
    if contents.kind in (EMPTY, OTHER):
        raise InputError(
            f"{path} has no model of LTX-Video",
            got=contents.seen,
            expected="a pipeline, a transformer, a VAE, an upsampler, a LoRA or official single files",
        )
    files = {name: folder / name for name in names if contents.has(name)}
    found = ModelFolder(folder, contents, files, tuple(name for name in names if name not in files))
    _check_parts(found)
    _check_weights(found)
    return found


def describe_local(folder: Path, names: list[str]) -> Contents:
    """What a folder's files hold; see `contents.describe_files`."""
    files = FolderFiles(folder)
    return describe_files(names, files.read_json, lambda name: list(files.read_header(name)))


def files_in_layout(folder: ModelFolder, layout: str) -> Files:
    """The files of a model in the native layout or in Diffusers'.

    Raises:
        InputError: If the layout can't express the model.
        CheckpointError: If Diffusers' class for a part has other tensors.
    """
    contents = folder.contents
    if contents.kind == SINGLE_FILE:
        raise InputError(
            f"{folder.path} holds official single files",
            got=f"--layout {layout}",
            expected="--layout official",
            fix="convert them with `ltx-diffusers convert` first",
        )
    files: Files = {name: _public(name, path) for name, path in folder.files.items()}
    convert = _to_native if layout == NATIVE else _to_diffusers
    if contents.kind == COMPONENT:
        files[COMPONENT_FILE] = convert(folder, contents.part, "", COMPONENT_FILE)
    if contents.kind == PIPELINE:
        index = dict(contents.index)
        for name, (_, class_name) in contents.components.items():
            part, _ = COMPONENT_CLASSES.get(class_name, (None, None))
            if part is None:
                continue
            config = f"{name}/{SCHEDULER_FILE if part == 'scheduler' else COMPONENT_FILE}"
            files[config] = convert(folder, part, f"{name}/", config)
            class_name = json.loads(files[config])["_class_name"]
            library = (
                "ltx_diffusers" if layout == NATIVE else _DIFFUSERS_LIBRARIES.get(class_name, "diffusers")
            )
            index[name] = [library, class_name]
        if layout == DIFFUSERS:
            _check_diffusers_index(index)
        files[PIPELINE_FILE] = to_json(_without_local_paths(index))
    return files


def save_for_diffusers(model: Any, target: str | Path) -> Path:
    """Save a model so that Diffusers alone loads it, without a warning: its class names, its config fields.

    Settings that Diffusers' classes lack are kept where Diffusers passes over them, so that this library's classes
    find them again.

    Args:
        model: A pipeline or a model, or the folder of a saved one.
        target: The folder to make.

    Returns:
        The folder.

    Raises:
        InputError: If `target` exists and isn't empty, or Diffusers' classes can't express the model.
        CheckpointError: If Diffusers' class for a part has other tensors.
    """
    from ..conversion.writing import new_folder

    target = Path(target).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError("the target exists", got=str(target), expected="a new name, or an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(model, (str, Path)):
        folder = read_folder(model)
        files = files_in_layout(folder, DIFFUSERS)
        with new_folder(target) as partial:
            write_files(files, partial, shutil.copyfile)
        return target
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as saved:
        model.save_pretrained(saved)
        files = files_in_layout(read_folder(saved), DIFFUSERS)
        with new_folder(target) as partial:
            write_files(files, partial, shutil.move)
    return target


def write_files(
    files: Mapping[str, Path | bytes], target: Path, transfer: Callable[[Path, Path], Any]
) -> None:
    """Put an upload's files into a folder.

    Args:
        files: The files.
        target: The folder.
        transfer: Brings a file on disk there: `shutil.copyfile` or `shutil.move`.
    """
    for name, source in files.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            place.write_bytes(source)
        else:
            transfer(source, place)


def to_json(content: object) -> bytes:
    """JSON in the form of Diffusers' configs: indented, keys sorted."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _check_parts(folder: ModelFolder) -> None:
    """Every component that model_index.json names must be there, with its weights if it has any."""
    parts = {"": folder.contents.part or ""} if folder.contents.kind == COMPONENT else {}
    if folder.contents.kind == PIPELINE:
        parts = {f"{name}/": name for name in folder.contents.components}
    for prefix, part in parts.items():
        inside = [name for name in folder.files if name.startswith(prefix)]
        if not inside:
            raise InputError(
                f"{folder.path} is not whole: {PIPELINE_FILE} names {part}, and there is no folder {part}",
                fix="save it again with save_pretrained",
            )
        has_weights = any(name.endswith(".safetensors") for name in inside)
        if has_weights or (part not in _WITH_WEIGHTS and "upsampler" not in part):
            continue
        pickles = [name for name in folder.left_out if name.startswith(prefix) and name.endswith(_PICKLES)]
        raise CheckpointError(
            f"{folder.path} has no weights of {part} in safetensors files",
            got=", ".join(pickles[:3]) or "none",
            fix="load it and save it again with save_pretrained",
        )


def _weights_of(folder: ModelFolder, prefix: str) -> Path:
    """The index of a part's weights, or their file if they are whole; of any variant."""
    names = [name for name in folder.files if name.startswith(prefix) and ".safetensors" in name]
    return folder.files[min(names, key=lambda name: (".safetensors.index" not in name, name))]


def _check_weights(folder: ModelFolder) -> None:
    """Every weight file must be whole, and every index must have all its shards."""
    from ..conversion.tensors import open_tensors

    for name, path in folder.files.items():
        if name.endswith(".safetensors") or ".safetensors.index" in name:
            open_tensors(path).close()


def _to_diffusers(folder: ModelFolder, part: str, prefix: str, name: str) -> bytes:
    """The config of Diffusers' class for a part."""
    from ..conversion.in_tree import check_fits, in_tree_config
    from ..conversion.tensors import open_tensors
    from ..models.recorded import with_recorded

    saved = folder.json(name)
    if COMPONENT_CLASSES[saved["_class_name"]][1] == DIFFUSERS:
        return to_json(_without_local_paths(saved))
    if part == "scheduler":
        from ..schedulers.flow_match import LTXFlowMatchScheduler

        saved = dict(LTXFlowMatchScheduler.from_config(saved).config)
    config = {key: value for key, value in with_recorded(saved).items() if not key.startswith("_")}
    described = in_tree_config(part, config)
    if part != "scheduler":
        with open_tensors(_weights_of(folder, prefix)) as tensors:
            check_fits(part, described, {key: tensors.info(key).shape for key in tensors.names()})
    return to_json(described)


def _to_native(folder: ModelFolder, part: str, prefix: str, name: str) -> bytes:
    """The config of our class for a part, with what is inferred when such a part is loaded."""
    from ..pipelines.release import OWN_CLASSES, is_causal, is_untuned_uniform
    from ..schedulers.foreign_configs import own_config

    saved = folder.json(name)
    class_name = saved["_class_name"]
    if COMPONENT_CLASSES[class_name][1] == NATIVE:
        return to_json(_without_local_paths(saved))
    from ..models.recorded import with_recorded

    version = {"_diffusers_version": saved.get("_diffusers_version")}
    vae = folder.json(f"vae/{COMPONENT_FILE}")
    if part == "scheduler":
        config = own_config(saved, "LTXFlowMatchScheduler")
        if vae and "schedule" not in with_recorded(saved) and is_untuned_uniform(saved, vae):
            config["schedule"] = "linear-quadratic"
    else:
        config = with_recorded(saved)
        if part == "transformer" and vae:
            config["causal_temporal_positioning"] = is_causal(config, vae)
    own = OWN_CLASSES.get(class_name, class_name.removesuffix("Model"))
    return to_json(_without_local_paths(config) | version | {"_class_name": own})


def _check_diffusers_index(index: Mapping[str, Any]) -> None:
    """Diffusers alone must know every class."""
    known = (None, "diffusers", "transformers", *_DIFFUSERS_LIBRARIES.values())
    for name, entry in index.items():
        if isinstance(entry, list) and entry[0] not in known:
            raise InputError(
                f"Diffusers has no class for the {name} of this pipeline",
                got=".".join(map(str, entry)),
                fix=f"use --layout {NATIVE}, or {OFFICIAL}",
            )


def _public(name: str, path: Path) -> Path | bytes:
    """A file as it may be seen by others: configs without paths of this machine."""
    if path.suffix != ".json" or ".safetensors.index" in name or path.stat().st_size > 2**20:
        return path
    content = json.loads(path.read_text(encoding="utf-8"))
    public = _without_local_paths(content) if isinstance(content, dict) else content
    return path if public == content else to_json(public)


def _without_local_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in config.items() if key not in _ORIGINS or is_repository_name(str(value))
    }


def is_repository_name(text: str) -> bool:
    """Whether a text is the name of a repository rather than a path."""
    owner, slash, name = text.partition("/")
    plain = bool(owner and slash and name) and "/" not in name and not text.startswith((".", "~"))
    return plain and "\\" not in text and not Path(text).exists()
