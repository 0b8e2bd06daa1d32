"""What a checkpoint is: its parts, their configs and names, and its release, without loading a tensor.

What a file's metadata states is taken first, then what follows from its tensors. Where neither can tell, the caller
is asked for the version: nothing is guessed. Every part is checked against our model here: a missing tensor or a wrong
shape is found before anything is loaded.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, UnknownNameError
from ..models.recorded import with_recorded
from .config_types import check_types
from .layouts import FoundPart, find_parts, layout_of
from .model_classes import model_class, shapes_of
from .official_configs import transformer_from_official, upsampler_from_official, vae_from_official
from .own_settings import RELEASE, SCHEDULER, read_settings, with_settings
from .part_configs import check_depth, config_from_tensors
from .parts import MARKS, Part, map_part
from .release_facts import ReleaseFacts, undecided
from .releases import RELEASES, Release
from .renames import VaeLayout
from .tensors import TensorSource
from .vae_blocks import vae_family

_PRECISIONS = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8_e5m2",
}


@dataclass(frozen=True)
class Checkpoint:
    """What `describe` found.

    Attributes:
        path: The file or folder.
        layout: "official", "comfy", "diffusers" or "gguf".
        parts: Its models, by kind.
        version: The release, a key of `RELEASES`; None if several fit.
        version_from: Where that comes from: "metadata", "tensors" or "asked"; None without a version.
        candidates: Releases that fit what the file says; only these are valid for `version`.
        allowed_inference_steps: Noise levels that the model was distilled for, if the file or its version says so.
        scheduler_config: Arguments of `LTXFlowMatchScheduler`; None if nothing tells. See `sampler_config`.
        metadata: The file's remarks, as they are.
        unexpected: Names in the file that belong to no part, or that its model doesn't have.
        precision: Most frequent precision by bytes: "bf16", "fp16", "fp32", "fp8", or GGUF's name of it.
    """

    path: Path
    layout: str
    parts: dict[str, Part]
    version: str | None
    version_from: str | None
    candidates: tuple[str, ...]
    allowed_inference_steps: list[float] | None
    scheduler_config: dict[str, Any] | None
    metadata: dict[str, Any]
    unexpected: list[str]
    precision: str

    def part(self, kind: str) -> Part:
        """The part of this kind.

        Raises:
            CheckpointError: If the file has none.
        """
        if kind not in self.parts:
            raise CheckpointError(
                f"{self.path} has no {kind.replace('_', ' ')}", got=f"only {', '.join(self.parts)}"
            )
        return self.parts[kind]

    def sampler_config(self) -> dict[str, Any]:
        """`scheduler_config`, if it is known well enough to sample with.

        Raises:
            CheckpointError: If releases that sample differently fit the file.
        """
        samplers = {RELEASES[name].stochastic_sampling for name in self.candidates}
        if self.scheduler_config is None or (self.version is None and len(samplers) > 1):
            raise undecided(self.path, "how this model is sampled", self.candidates)
        return self.scheduler_config


def describe(source: TensorSource, *, version: str | None = None, undecided_ok: bool = False) -> Checkpoint:
    """Say what a checkpoint is, from its header only.

    Args:
        source: An opened checkpoint.
        version: The release that it is, a key of `RELEASES`, where the file can't tell. It can't contradict the file.
        undecided_ok: Accept that it isn't known whether a transformer's time coordinates are causal; its config then
            has None there. Without it that is an error.

    Raises:
        CheckpointError: If the file isn't an LTX-Video checkpoint, lacks tensors, contradicts itself or `version`, or
            if neither metadata nor tensors tell what `version` must then say.
        UnknownNameError: If there is no such release.
    """
    release = _release(version)
    found = find_parts(source)
    official = _official_config(source)
    configs = {
        kind: _stated_config(part, official, source) or config_from_tensors(part, source)
        for kind, part in found.items()
        if kind != "text_encoder"
    }
    settings = read_settings(source.metadata)
    for kind, config in configs.items():
        configs[kind] = with_settings(config, settings.get(kind, {}), model_class(kind))
        check_types(f"the {kind.replace('_', ' ')}'s config", model_class(kind), configs[kind])
        check_depth(found[kind], configs[kind], source)
        shapes_of(kind, configs[kind])  # refuses structures that can't be built
    families = {"vae": _family(found["vae"], configs["vae"])} if "vae" in configs else {}
    facts = ReleaseFacts.of(source, configs, families, official, settings.get(SCHEDULER), release)
    if "transformer" in configs:
        configs["transformer"]["causal_temporal_positioning"] = facts.causal
    candidates = facts.candidates()
    if release is not None:
        facts.check(release)
    elif settings.get(RELEASE, {}).get("name") in candidates:  # noted by this library when it wrote the file
        release = RELEASES[settings[RELEASE]["name"]]
    if release is not None:
        candidates = (release.name,)
    if "transformer" in configs and facts.causal is None and not undecided_ok:
        raise undecided(source.path, "whether its time coordinates are causal", candidates)

    parts = {
        kind: map_part(source, part, configs.get(kind, {}), families.get(kind))
        for kind, part in found.items()
    }
    taken = {name for part in found.values() for name in part.names}
    unexpected = [name for part in parts.values() for name in part.unexpected]
    unexpected += [name for name in source.names() if name not in taken and name not in MARKS]
    known = release or (RELEASES[candidates[0]] if len(candidates) == 1 else None)
    origin = "asked" if version is not None else "metadata" if official or settings else "tensors"
    scheduler = facts.scheduler_config(known, candidates)
    return Checkpoint(
        path=source.path,
        layout=layout_of(source, found),
        parts=parts,
        version=known.name if known else None,
        version_from=origin if known else None,
        candidates=candidates,
        allowed_inference_steps=(scheduler or {}).get("allowed_inference_steps"),
        scheduler_config=scheduler,
        metadata=source.metadata,
        unexpected=unexpected,
        precision=_precision(source, parts),
    )


def _release(version: str | None) -> Release | None:
    if version is None:
        return None
    if version not in RELEASES:
        raise UnknownNameError(f"unknown release {version!r}", expected=f"one of {', '.join(RELEASES)}")
    return RELEASES[version]


def _official_config(source: TensorSource) -> dict[str, Any]:
    """The JSON object in the metadata's "config"; {} if there is none."""
    text = source.metadata.get("config")
    if not isinstance(text, str):
        return {}
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{source.path}: the metadata's config isn't a JSON object", got=repr(text[:100])
        )
    return config


def _stated_config(
    part: FoundPart, official: Mapping[str, Any], source: TensorSource
) -> dict[str, Any] | None:
    """A part's config as the metadata or the `config.json` beside it states it; None if nothing does."""
    if source.config is not None and part.naming == "diffusers":
        return _own_config(part.kind, source.config)
    if part.kind.endswith("upsampler"):
        return upsampler_from_official(official) if "mid_channels" in official else None
    stated = official.get(part.kind)
    if stated is None:
        return None
    return transformer_from_official(stated) if part.kind == "transformer" else vae_from_official(stated)


def _own_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved component's config, ours or Diffusers', with our defaults for what it doesn't state."""
    fields = inspect.signature(model_class(kind).__init__).parameters
    defaults = {
        name: parameter.default for name, parameter in fields.items() if name not in ("self", "kwargs")
    }
    stated = with_recorded(config)
    return {name: stated.get(name, default) for name, default in defaults.items()}


def _family(part: FoundPart, config: Mapping[str, Any]) -> str | VaeLayout | None:
    """Kind of a VAE; None for one of ours that has no official form, whose names don't need it."""
    try:
        return vae_family(config)
    except CheckpointError:
        if part.naming == "official":
            raise
        return None


def _precision(source: TensorSource, parts: Mapping[str, Part]) -> str:
    """The precision of most bytes, a text encoder's apart."""
    stated = source.metadata.get("precision") if source.path.suffix == ".gguf" else None
    if stated:
        return str(stated)
    totals: dict[str, int] = {}
    for part in (part for kind, part in parts.items() if kind != "text_encoder"):
        for name in part.names.values():
            info = source.info(name)
            label = _PRECISIONS.get(info.dtype, str(info.dtype).removeprefix("torch."))
            totals[label] = totals.get(label, 0) + info.nbytes
    return max(totals, key=totals.get)
