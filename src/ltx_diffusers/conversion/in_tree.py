"""Component configs under the names of Diffusers' own classes, so that Diffusers alone can load what we write.

Settings that those classes lack are recorded beside theirs (`models.recorded`); ours read both.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from diffusers import __version__ as diffusers_version

from ..errors import CheckpointError
from ..models.recorded import RECORD
from ..schedulers.foreign_configs import to_recorded_diffusers

CLASSES = MappingProxyType(
    {
        "transformer": "LTXVideoTransformer3DModel",
        "vae": "AutoencoderKLLTXVideo",
        "spatial_upsampler": "LTXLatentUpsamplerModel",
        "temporal_upsampler": "LTXLatentUpsamplerModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
)
"""Diffusers' class for each kind of part."""

PIPELINE = "LTXPipeline"


def in_tree_class(kind: str) -> type:
    """Diffusers' class for a kind of part."""
    if kind.endswith("upsampler"):  # its module brings Diffusers' pipelines and Transformers along
        from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

        return LTXLatentUpsamplerModel
    import diffusers

    return getattr(diffusers, CLASSES[kind])


def in_tree_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Config of Diffusers' class for a part of ours.

    Args:
        kind: Of the part: "transformer", "vae", "spatial_upsampler", "temporal_upsampler" or "scheduler".
        config: Arguments of our class; all of them for a scheduler.

    Raises:
        CheckpointError: If Diffusers' class can't express it.
    """
    named = {"_class_name": CLASSES[kind], "_diffusers_version": diffusers_version}
    if kind == "scheduler":
        return to_recorded_diffusers(config) | named
    shared = _arguments(in_tree_class(kind))
    theirs = {name: value for name, value in config.items() if name in shared}
    own = {name: value for name, value in config.items() if name not in shared}
    record = {RECORD: own} if own else {}
    return theirs | record | named


def check_fits(kind: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that Diffusers' class, built from an in-tree config, has exactly these tensors.

    Args:
        kind: Of the part.
        config: As `in_tree_config` gives it.
        shapes: Shape of each tensor by its name in our class.

    Raises:
        CheckpointError: If the class can't be built so, or has other tensors.
    """
    from accelerate import init_empty_weights

    theirs = in_tree_class(kind)
    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    try:
        with init_empty_weights():
            expected = {
                name: tuple(tensor.shape) for name, tensor in theirs(**arguments).state_dict().items()
            }
    except Exception as error:  # whatever the class makes of a config that it wasn't written for
        raise CheckpointError(
            f"Diffusers' {CLASSES[kind]} can't be built with this {kind}'s config",
            got=f"{type(error).__name__}: {error}",
            fix="save it with save_pretrained, for ltx_diffusers",
        ) from None
    wrong = sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name))
    if wrong:
        raise CheckpointError(
            f"Diffusers' {CLASSES[kind]} has other tensors than this {kind}",
            got=f"{len(wrong)} that differ, such as {wrong[0]}: {shapes.get(wrong[0], 'none')}",
            expected=expected.get(wrong[0], "none"),
            fix="save it with save_pretrained, for ltx_diffusers",
        )


def pipeline_index(components: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The model_index.json of Diffusers' pipeline.

    Args:
        components: Library and class of each component that there is.
    """
    names = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
    index = {name: list(components.get(name, (None, None))) for name in names}
    return {"_class_name": PIPELINE, "_diffusers_version": diffusers_version, **index}


@functools.cache
def _arguments(model: type) -> frozenset[str]:
    return frozenset(inspect.signature(model.__init__).parameters) - {"self"}
