"""What a checkpoint is: its parts, their configs and names, and its release, without loading a tensor.

What a file's metadata states is taken first, then what follows from its tensors. Where neither can tell, the caller
is asked for the version: nothing is guessed. Every part is checked against our model here: a missing tensor or a wrong
shape is found before anything is loaded.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, UnknownNameError
from ..models.autoencoders.encoder import RESIDUAL_BLOCK
from ..models.recorded import with_recorded
from ..schedulers.flow_match import LTXFlowMatchScheduler
from .config_types import check_types
from .layouts import FoundPart, find_parts, layout_of
from .model_classes import model_class, shapes_of
from .official_configs import (
    check_scheduler,
    scheduler_from_official,
    transformer_from_official,
    upsampler_from_official,
    vae_from_official,
)
from .own_settings import RELEASE, SCHEDULER, read_settings, with_settings
from .part_configs import check_depth, config_from_tensors, transformer_size
from .releases import RELEASES, Release
from .renames import VaeLayout, to_diffusers
from .tensors import TensorSource, read_config
from .vae_blocks import vae_family

SCALE_ENDINGS = (".scale_weight", ".weight_scale")
"""Names, behind a layer's, of the factor that its fp8 weight must be multiplied with."""

_ACTIVATION_ENDINGS = (".scale_input", ".input_scale", ".comfy_quant")
_MARKS = ("scaled_fp8",)
_OPTIONAL = {"vae": {"latents_mean"}}
"""Tensors that official files may lack: a missing mean is 0."""

_PRECISIONS = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8_e5m2",
}
FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class Part:
    """One model in a checkpoint.

    Attributes:
        kind: "transformer", "vae", "spatial_upsampler", "temporal_upsampler", or "text_encoder" (listed only).
        config: All arguments of our class for it; {} for a text encoder.
        names: Our tensor name -> name in the file.
        dropped: Names in the file that no model needs: unused statistics, scales of activations.
        scales: Our tensor name -> name in the file of the factor of its fp8 values.
        vae_family: Kind of the VAE for `renames`, None for other parts.
        unexpected: Names in the file, among this model's, that the model doesn't have.
    """

    kind: str
    config: dict[str, Any]
    names: dict[str, str]
    dropped: list[str] = field(default_factory=list)
    scales: dict[str, str] = field(default_factory=dict)
    vae_family: str | VaeLayout | None = None
    unexpected: list[str] = field(default_factory=list)


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
    facts = _Facts.of(source, configs, families, official, settings.get(SCHEDULER), release)
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
        kind: _mapped(source, part, configs.get(kind, {}), families.get(kind)) for kind, part in found.items()
    }
    taken = {name for part in found.values() for name in part.names}
    unexpected = [name for part in parts.values() for name in part.unexpected]
    unexpected += [name for name in source.names() if name not in taken and name not in _MARKS]
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


def undecided(path: Path, what: str, candidates: Sequence[str]) -> CheckpointError:
    """The error for a file that doesn't tell something which depends on its release."""
    choices = list(candidates) or list(RELEASES)
    named = [name for name in choices if all(word in path.name.lower() for word in name.split("-"))]
    hint = f" (the file's name says {named[-1]})" if named else ""
    return CheckpointError(
        f"neither the metadata nor the tensors of {path} tell {what}",
        expected=f"its release, one of {', '.join(choices)}",
        fix=f"pass version=...{hint}",
    )


@dataclass(frozen=True)
class _Facts:
    """What a file says about its release."""

    path: Path
    has_metadata: bool
    size: str | None
    vae: str | None
    has_transformer: bool
    has_vae: bool
    upsampler: str | None
    causal: bool | None
    schedule: dict[str, Any] | None

    @classmethod
    def of(
        cls,
        source: TensorSource,
        configs: Mapping[str, dict[str, Any]],
        families: Mapping[str, str | VaeLayout | None],
        official: Mapping[str, Any],
        own_schedule: Mapping[str, Any] | None,
        release: Release | None,
    ) -> _Facts:
        size = transformer_size(configs["transformer"]) if "transformer" in configs else None
        family = families.get("vae")
        vae = family if isinstance(family, str) else None
        causal = configs.get("transformer", {}).get("causal_temporal_positioning")
        if causal is None:
            causal = _causal(size, configs.get("vae") or _vae_beside(source), release)
        allowed = official.get("allowed_inference_steps")
        schedule = None
        if official.get("scheduler") is not None:
            schedule = scheduler_from_official(official["scheduler"], allowed)
        if own_schedule is not None:
            schedule = with_settings(schedule or {}, own_schedule, LTXFlowMatchScheduler)
            check_scheduler(schedule)
        return cls(
            path=source.path,
            has_metadata=bool(official),
            size=size,
            vae=vae,
            has_transformer="transformer" in configs,
            has_vae="vae" in configs,
            upsampler=next((kind for kind in configs if kind.endswith("upsampler")), None),
            causal=causal,
            schedule=schedule,
        )

    def contradiction(self, release: Release) -> tuple[str, object, object] | None:
        """What of the file contradicts a release: what it is, the file's value, the release's."""
        if self.upsampler or release.upsampler:
            differs = self.upsampler != release.upsampler
            return (
                ("part", self.upsampler or "no upsampler", release.upsampler or "no upsampler")
                if differs
                else None
            )
        if self.size is not None and self.size != release.size:
            return "size of the transformer", self.size, release.size
        if self.has_vae and self.vae != release.vae:
            return "kind of VAE", self.vae or "none of the released", release.vae
        if self.has_transformer and self.causal not in (None, release.causal):
            return "causal_temporal_positioning", self.causal, release.causal
        if self.schedule is not None:
            for name in ("schedule", "shifting"):
                expected = release.schedule.get(name)
                if self.schedule.get(name) != expected:
                    return name, self.schedule.get(name), expected
            stochastic = self.schedule.get("stochastic_sampling")
            if stochastic not in (None, release.stochastic_sampling):  # stated by this library's files only
                return "stochastic_sampling", stochastic, release.stochastic_sampling
            if (self.schedule.get("allowed_inference_steps") is not None) != release.distilled:
                kinds = ("a model for any number of steps", "a distilled model")
                return "kind", kinds[not release.distilled], kinds[release.distilled]
        return None

    def candidates(self) -> tuple[str, ...]:
        """Releases that the file doesn't contradict."""
        return tuple(name for name, release in RELEASES.items() if self.contradiction(release) is None)

    def check(self, release: Release) -> None:
        """Check that the release that was asked for fits the file."""
        problem = self.contradiction(release)
        if problem is not None:
            what, got, expected = problem
            raise CheckpointError(
                f"{self.path} isn't {release.name}: its {what} is another", got=got, expected=expected
            )

    def scheduler_config(self, release: Release | None, candidates: Sequence[str]) -> dict[str, Any] | None:
        """Arguments of the scheduler, from the metadata and, where that is silent, from what all candidates share."""
        if self.upsampler:
            return None
        options = (
            [release.scheduler_config]
            if release
            else [RELEASES[name].scheduler_config for name in candidates]
        )
        shared = {}
        if options:
            shared = {
                name: value
                for name, value in options[0].items()
                if all(name in option and option[name] == value for option in options)
            }
        if self.schedule is not None:
            return {**shared, **self.schedule}
        return shared if "schedule" in shared and "allowed_inference_steps" in shared else None


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


def _causal(size: str | None, vae: Mapping[str, Any] | None, release: Release | None) -> bool | None:
    """Whether coordinates are causal, where no config states it: what the release, the kind of VAE or the size tell.

    Causal coordinates and the VAE with residual downsamplers came together, with 0.9.5; every 13B is later.
    """
    if release is not None and release.size is not None:
        return release.causal
    if vae is not None:
        return RESIDUAL_BLOCK in list(vae.get("down_block_types") or ())
    return True if size == "13b" else None


def _family(part: FoundPart, config: Mapping[str, Any]) -> str | VaeLayout | None:
    """Kind of a VAE; None for one of ours that has no official form, whose names don't need it."""
    try:
        return vae_family(config)
    except CheckpointError:
        if part.naming == "official":
            raise
        return None


def _vae_beside(source: TensorSource) -> dict[str, Any] | None:
    """Config of the VAE in the same pipeline folder as a transformer's; None if there is none."""
    folder = source.path if source.path.is_dir() else source.path.parent
    if source.config is None or folder.name != "transformer":
        return None
    return read_config(folder.parent / "vae")


def _mapped(
    source: TensorSource, part: FoundPart, config: dict[str, Any], family: str | VaeLayout | None
) -> Part:
    """A part with its names, checked against our model."""
    if part.kind == "text_encoder":
        return Part(part.kind, {}, {part.inside(name): name for name in part.names})
    names: dict[str, str] = {}
    scales: dict[str, str] = {}
    dropped: list[str] = []
    for name in part.names:
        inside = part.inside(name)
        ending = next((ending for ending in SCALE_ENDINGS if inside.endswith(ending)), None)
        if inside in _MARKS or inside.endswith(_ACTIVATION_ENDINGS):
            dropped.append(name)
            continue
        if ending is not None:
            inside = f"{inside.removesuffix(ending)}.weight"
        ours = to_diffusers(part.kind, inside, family) if part.naming == "official" else inside
        if ours is None:
            dropped.append(name)
            continue
        target = names if ending is None else scales
        if ours in target:
            raise CheckpointError(f"{source.path}: two tensors are {ours}", got=f"{target[ours]}, {name}")
        target[ours] = name
    expected = shapes_of(part.kind, config)
    unexpected = [names.pop(ours) for ours in list(names) if ours not in expected]
    _check_tensors(source, part.kind, names, expected)
    _check_scales(source, names, scales)
    return Part(part.kind, config, names, dropped, scales, family, unexpected)


def _check_tensors(
    source: TensorSource, kind: str, names: Mapping[str, str], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = [name for name in expected if name not in names and name not in _OPTIONAL.get(kind, ())]
    if missing:
        raise CheckpointError(
            f"{source.path} lacks {len(missing)} of the {kind.replace('_', ' ')}'s {len(expected)} tensors",
            got=f"no {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}",
        )
    for name, stored in names.items():
        info = source.info(stored)
        if info.shape != expected[name]:
            raise CheckpointError(
                f"{source.path}: {stored} has another shape than its config says",
                got=info.shape,
                expected=expected[name],
            )
        if not info.dtype.is_floating_point:
            raise CheckpointError(
                f"{source.path}: {stored} isn't stored as floating-point numbers",
                got=info.dtype,
                fix="use a file in bf16, fp16, fp32, fp8 or GGUF",
            )


def _check_scales(source: TensorSource, names: Mapping[str, str], scales: Mapping[str, str]) -> None:
    """Scales must belong to weights, one for the whole tensor or one per row."""
    for name, stored in scales.items():
        if name not in names:
            raise CheckpointError(f"{source.path}: {stored} scales a tensor that isn't there")
        rows, shape = source.info(names[name]).shape[0], source.info(stored).shape
        if (
            shape not in ((), (1,), (1, 1), (rows,), (rows, 1))
            or not source.info(stored).dtype.is_floating_point
        ):
            raise CheckpointError(
                f"{source.path}: {stored} scales in a way that isn't known",
                got=shape,
                expected=f"one factor, or {rows}",
            )


def _precision(source: TensorSource, parts: Mapping[str, Part]) -> str:
    """The precision of most bytes of our parts."""
    stated = source.metadata.get("precision") if source.path.suffix == ".gguf" else None
    if stated:
        return str(stated)
    totals: dict[str, int] = {}
    for part in parts.values():
        for name in part.names.values():
            info = source.info(name)
            label = _PRECISIONS.get(info.dtype, str(info.dtype).removeprefix("torch."))
            totals[label] = totals.get(label, 0) + info.nbytes
    return max(totals, key=totals.get)
