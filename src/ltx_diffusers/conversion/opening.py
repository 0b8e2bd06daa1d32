"""A model to convert or to compare: the parts of a single file, of one component's folder, or of a pipeline's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..models.recorded import with_recorded
from ..schedulers.flow_match import LTXFlowMatchScheduler
from ..schedulers.foreign_configs import DIFFUSERS_CLASS
from .describe import Checkpoint, Part, describe
from .releases import RELEASES
from .tensors import TensorSource, open_tensors
from .text_encoders import text_encoder_part

PIPELINE_FILE = "model_index.json"
SCHEDULER_FILE = Path("scheduler", "scheduler_config.json")
_WEIGHTS = ("transformer", "vae", "text_encoder")
_OTHERS = ("scheduler", "tokenizer")


@dataclass(frozen=True)
class OpenModel:
    """A model whose tensors can be read.

    Attributes:
        path: The file or folder.
        layout: "official", "comfy", "diffusers" or "gguf".
        parts: With weights, by kind; a text encoder's config is its config.json.
        sources: Where each part's tensors are, by kind.
        is_pipeline: Whether it is a pipeline's folder.
        scheduler: Fields of `LTXFlowMatchScheduler` that are known; None if the source tells nothing of it.
        undecided: What to raise where all of them must be known and aren't; None if they are.
        tokenizer: Its folder, or None.
        classes: Library and class of text encoder and tokenizer, as a pipeline's index names them.
        version: The release, None if it isn't known.
        unexpected: Tensors of the source that belong to no part.
        notes: What was inferred, in sentences.
    """

    path: Path
    layout: str
    parts: dict[str, Part]
    sources: dict[str, TensorSource]
    is_pipeline: bool = False
    scheduler: dict[str, Any] | None = None
    undecided: CheckpointError | None = None
    tokenizer: Path | None = None
    classes: dict[str, tuple[str, str]] = field(default_factory=dict)
    version: str | None = None
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@contextmanager
def open_model(
    path: str | Path, *, version: str | None = None, allow_pickle: bool = False
) -> Iterator[OpenModel]:
    """Open a model without loading it. Its header and configs are checked, strictly.

    Args:
        path: A single file, an index of shards, one component's folder, or a pipeline's folder.
        version: The release, a key of `RELEASES`, for what the source doesn't tell.
        allow_pickle: Whether pickles may be read, weights only.

    Raises:
        CheckpointError: If it can't be used; see `describe`.
        UnknownNameError: If there is no such release.
    """
    path = Path(path).expanduser()
    with ExitStack() as stack:
        if (path / PIPELINE_FILE).is_file():
            yield _open_pipeline(path, version, allow_pickle, stack)
        else:
            source = stack.enter_context(open_tensors(path, allow_pickle=allow_pickle))
            yield _open_single(path, source, version)


def _open_single(path: Path, source: TensorSource, version: str | None) -> OpenModel:
    """One file or component; whether it must be told which release it is depends on what is written."""
    found = describe(source, version=version, undecided_ok=True)
    parts = {
        kind: text_encoder_part(part, source) if kind == "text_encoder" else part
        for kind, part in found.parts.items()
    }
    samples = "transformer" in parts
    return OpenModel(
        path,
        found.layout,
        parts,
        dict.fromkeys(parts, source),
        scheduler=found.scheduler_config if samples else None,
        undecided=_undecided(found) if samples else None,
        version=found.version,
        unexpected=tuple(found.unexpected),
    )


def _undecided(found: Checkpoint) -> CheckpointError | None:
    """The error that asks for the version, where releases that sample differently fit."""
    if not found.candidates:  # a model of its own: its scheduler is what it states
        return None
    try:
        found.sampler_config()
    except CheckpointError as error:
        return error
    return None


def _open_pipeline(folder: Path, version: str | None, allow_pickle: bool, stack: ExitStack) -> OpenModel:
    """A pipeline's folder. Classes in its index may be ours or Diffusers'; the components' configs decide."""
    index = _read_json(folder / PIPELINE_FILE)
    present = [name for name, entry in index.items() if isinstance(entry, list) and entry[-1:] != [None]]
    foreign = sorted(set(present) - {*_WEIGHTS, *_OTHERS})
    if foreign:
        raise CheckpointError(
            f"{folder} has a component that isn't of LTX-Video's pipelines",
            got=foreign[0],
            expected=", ".join((*_WEIGHTS, *_OTHERS)),
            fix="give the folder of one component",
        )
    absent = [name for name in present if not (folder / name).is_dir()]
    if absent:
        raise CheckpointError(
            f"{folder} lacks a folder that its {PIPELINE_FILE} names", got=f"no {absent[0]}"
        )
    parts: dict[str, Part] = {}
    sources: dict[str, TensorSource] = {}
    notes: list[str] = []
    unexpected: list[str] = []
    for kind in (kind for kind in _WEIGHTS if kind in present):
        source = stack.enter_context(open_tensors(folder / kind, allow_pickle=allow_pickle))
        sources[kind] = source
        if kind == "text_encoder":
            parts[kind] = Part(kind, source.config or {}, {name: name for name in source.names()})
        else:
            found = describe(source, version=version, undecided_ok=True)
            parts[kind] = found.part(kind)
            unexpected += found.unexpected
            if kind == "transformer":
                version = version or found.version
                notes += _inferred_coordinates(found, source)
    model = OpenModel(
        folder,
        "diffusers",
        parts,
        sources,
        is_pipeline=True,
        tokenizer=folder / "tokenizer" if "tokenizer" in present else None,
        classes={name: tuple(index[name]) for name in ("text_encoder", "tokenizer") if name in present},
        version=version,
        unexpected=tuple(unexpected),
        notes=tuple(notes),
    )
    return _with_scheduler(model, _read_json(folder / SCHEDULER_FILE)) if "scheduler" in present else model


def _inferred_coordinates(found: Checkpoint, source: TensorSource) -> list[str]:
    causal = found.part("transformer").config["causal_temporal_positioning"]
    stated = with_recorded(source.config or {}).get("causal_temporal_positioning")
    if causal is None or stated is not None or found.version is not None:
        return []
    return [
        f"{source.path} doesn't state causal_temporal_positioning; {causal} follows from the size or the VAE."
    ]


def _with_scheduler(model: OpenModel, stated: Mapping[str, Any]) -> OpenModel:
    """A pipeline with all fields of its scheduler, by the release or the VAE where Diffusers' config states none.

    Diffusers' repositories of 0.9.5 and later state a plain uniform schedule, for which no release was made: its
    class can't state the linear-quadratic one.
    """
    own = all_fields(stated)
    plain = own["schedule"] == "uniform" and own["shifting"] is None and own["shift_terminal"] is None
    late = "vae" in model.parts and model.parts["vae"].vae_family == "0.9.5"
    if stated.get("_class_name") != DIFFUSERS_CLASS or not plain or not late:
        return replace(model, scheduler=own)
    if model.version is not None:
        return replace(model, scheduler=all_fields(RELEASES[model.version].scheduler_config))
    note = (
        f"{model.path} states no schedule; linear-quadratic follows from the kind of VAE (0.9.5 or later). "
        "Give the version to decide."
    )
    return replace(model, scheduler=all_fields({"schedule": "linear-quadratic"}), notes=(*model.notes, note))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError("not a JSON file", got=path, fix=f"({error})") from None
    except OSError as error:
        raise CheckpointError(f"can't read {path}", got=error.strerror) from None
    if not isinstance(content, dict):
        raise CheckpointError("not a JSON object", got=path)
    return content


def all_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of `LTXFlowMatchScheduler` for a scheduler's config, ours or another that it reads."""
    scheduler = LTXFlowMatchScheduler.from_config(dict(config))
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
