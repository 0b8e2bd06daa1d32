"""Settings of a release that Diffusers' layout doesn't record, and the classes that we read it with.

Diffusers' transformer config doesn't say whether time coordinates are causal, and its converter writes a plain
uniform schedule for releases that were tuned for the linear-quadratic one. Both follow from the kind of VAE: the
one with residual downsamplers came with 0.9.5 and has been in every release since. What is inferred is said in a
warning, with the way to override it; what a config states is never changed.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.recorded import with_recorded
from ..schedulers.flow_match import LTXFlowMatchScheduler

logger = logging.getLogger(__name__)

LIBRARY = "ltx_diffusers"
OWN_CLASSES = {
    "LTXVideoTransformer3DModel": "LTXTransformer3DModel",
    "AutoencoderKLLTXVideo": "AutoencoderKLLTX",
    "FlowMatchEulerDiscreteScheduler": "LTXFlowMatchScheduler",
}
"""Our class for each of Diffusers', by the names that model_index.json records."""

COMPONENTS = ("transformer", "vae", "scheduler")
INDEX = "model_index.json"


def own_classes(index: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline's model_index.json with our classes in place of Diffusers' LTX classes."""
    return {name: _own_class(entry) if name in COMPONENTS else entry for name, entry in index.items()}


def _own_class(entry: Any) -> Any:
    library, class_name = entry
    return (
        [LIBRARY, OWN_CLASSES[class_name]] if library == "diffusers" and class_name in OWN_CLASSES else entry
    )


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The JSON file `name` in a model's folder, with its record's settings in place, or {} if there is none.

    Raises:
        InputError: If the file doesn't hold a JSON object.
    """
    path = folder / name
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} isn't valid JSON", fix=f"({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold a JSON object", got=type(config).__name__)
    return with_recorded(config)


def check_layout(folder: Path, passed: Collection[str], source: str) -> None:
    """Refuse a folder that isn't an LTX-Video pipeline in Diffusers' layout.

    Args:
        folder: The pipeline's folder.
        passed: Names of components that the caller gave, whatever the index says of them.
        source: The folder or repository as the caller named it, for the message.

    Raises:
        InputError: If the index is missing or broken, or a component is missing or of a foreign kind.
    """
    fix = "give a folder or repository with LTX-Video in Diffusers' layout"
    if not (folder / INDEX).is_file():
        raise InputError(f"no {INDEX} found, so this isn't a pipeline", got=source, fix=fix)
    index = read_config(folder, INDEX)
    for name in COMPONENTS:
        if name in passed:
            continue
        entry = index.get(name)
        library, class_name = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if class_name is None or (library == "diffusers" and class_name not in OWN_CLASSES):
            raise InputError(
                f"{source} isn't an LTX-Video pipeline: its {name} can't be used",
                got=class_name or "none",
                expected=next(known for known in OWN_CLASSES if _kind(known) == name),
                fix=fix,
            )


def _kind(class_name: str) -> str:
    """Which component a class of Diffusers' is."""
    kinds = {"Transformer": "transformer", "Autoencoder": "vae", "Scheduler": "scheduler"}
    return next(kind for mark, kind in kinds.items() if mark in class_name)


def is_095_vae(vae_config: Mapping[str, Any]) -> bool:
    """Whether this is the VAE of 0.9.5 and later, by its residual downsamplers."""
    return "LTXVideo095DownBlock3D" in (vae_config.get("down_block_types") or ())


def is_causal(transformer_config: Mapping[str, Any], vae_config: Mapping[str, Any]) -> bool:
    """Whether time coordinates are causal: what the transformer's config states, else inferred from the VAE."""
    stated = transformer_config.get("causal_temporal_positioning")
    if stated is not None:
        return stated
    causal = is_095_vae(vae_config)
    warn_once(
        f"The transformer's config doesn't state causal_temporal_positioning; {causal} follows from the kind of "
        "VAE. To override it: from_pretrained(..., causal_temporal_positioning=...), or "
        "pipe.transformer.register_to_config(causal_temporal_positioning=...)."
    )
    return causal


def is_untuned_uniform(scheduler_config: Mapping[str, Any], vae_config: Mapping[str, Any]) -> bool:
    """Whether a scheduler of Diffusers' would run a plain uniform schedule on 0.9.5 or later.

    Its pipelines do so because the converter writes no schedule; the model was tuned for "linear-quadratic".
    """
    plain = not scheduler_config.get("use_dynamic_shifting") and not scheduler_config.get("shift_terminal")
    return plain and scheduler_config.get("shift", 1.0) == 1.0 and is_095_vae(vae_config)


def warn_linear_quadratic() -> None:
    """Say that the linear-quadratic schedule was chosen."""
    warn_once(
        "The scheduler's config has no schedule; linear-quadratic follows from the kind of VAE (0.9.5 or later). "
        'To override it: from_pretrained(..., schedule="uniform"), or pass sigmas.'
    )


def state_settings(
    pipeline: Any,
    folder: Path,
    passed: Collection[str],
    causal_temporal_positioning: bool | None,
    schedule: str | None,
) -> None:
    """Write what the caller gave, or else what had to be inferred, into the configs of loaded components.

    Args:
        pipeline: A pipeline just loaded from `folder`, with our classes.
        folder: Where the configs as they were saved can be read.
        passed: Names of components that weren't loaded but given; nothing is inferred for those.
        causal_temporal_positioning: The caller's choice.
        schedule: The caller's choice, a name in `functional.sigmas.schedules`.
    """
    files = {"transformer": "config.json", "scheduler": "scheduler_config.json"}
    given = {"transformer": causal_temporal_positioning, "scheduler": schedule}
    inferred_settings(
        pipeline,
        {
            name: read_config(folder / name, file)
            for name, file in files.items()
            if given[name] is None and name not in passed
        },
    )
    if causal_temporal_positioning is not None:
        pipeline.transformer.register_to_config(causal_temporal_positioning=causal_temporal_positioning)
    if schedule is not None:
        pipeline.scheduler = with_schedule(pipeline.scheduler.config, schedule)


def inferred_settings(pipeline: Any, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what had to be inferred from the kind of VAE into the configs of loaded components.

    Args:
        pipeline: Its components are of our classes.
        saved: Configs as they were saved, of "transformer" and "scheduler" where something may be inferred.
    """
    vae = pipeline.vae.config
    if "transformer" in saved:
        causal = is_causal(saved["transformer"], vae)
        pipeline.transformer.register_to_config(causal_temporal_positioning=causal)
    scheduler = saved.get("scheduler")
    if scheduler is not None:
        own = scheduler.get("_class_name") not in OWN_CLASSES or "schedule" in scheduler
        if not own and is_untuned_uniform(scheduler, vae):
            warn_linear_quadratic()
            pipeline.scheduler = with_schedule(pipeline.scheduler.config, "linear-quadratic")


def with_schedule(config: Mapping[str, Any], schedule: str) -> LTXFlowMatchScheduler:
    """Our scheduler with another schedule, which then has its own default options.

    Args:
        config: Of a scheduler of ours, of Diffusers' or of the official package.
        schedule: A name in `functional.sigmas.schedules`.

    Raises:
        InputError: If the config isn't one that `LTXFlowMatchScheduler.from_config` takes.
    """
    scheduler = LTXFlowMatchScheduler.from_config(config)
    if scheduler.config.schedule == schedule:
        return scheduler
    return LTXFlowMatchScheduler.from_config(scheduler.config, schedule=schedule, schedule_options=None)


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, the same one only once per process."""
    logger.warning(message)
