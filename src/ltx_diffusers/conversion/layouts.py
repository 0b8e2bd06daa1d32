"""Which models a checkpoint's tensors belong to, and in whose naming, by their names alone."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import CheckpointError
from .tensors import TensorSource

TRANSFORMER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "model.", "")
"""Of transformers: official and ComfyUI's checkpoints, ComfyUI's models, merged pipelines, lone files."""

VAE_PREFIXES = ("vae.", "first_stage_model.", "")
TEXT_ENCODER_PREFIXES = ("text_encoders.", "cond_stage_model.", "text_encoder.")
"""Of text encoders that ComfyUI saves in the same file."""

_VAE_SIDES = ("encoder.", "decoder.", "per_channel_statistics.", "latents_mean", "latents_std")
_LTX2_MARKS = ("audio_patchify_proj", "audio_proj_in", "audio_adaln_single", "audio_vae.", "vocoder.")


class FoundPart(NamedTuple):
    """A model in a checkpoint."""

    kind: str
    """A key of `describe.Checkpoint.parts`."""
    naming: str
    """Whose names its tensors have: "official" or "diffusers"."""
    prefix: str
    """What stands before them in the file."""
    names: list[str]
    """Its tensors, as the file names them."""

    def inside(self, name: str) -> str:
        """A tensor's name without the prefix."""
        return name.removeprefix(self.prefix)


def find_parts(source: TensorSource) -> dict[str, FoundPart]:
    """The models in a checkpoint, by kind.

    Raises:
        CheckpointError: If there is none of LTX-Video.
    """
    names = source.names()
    known = set(names)
    for name in names:
        if any(mark in name for mark in _LTX2_MARKS):
            raise CheckpointError(
                f"{source.path} is a model of LTX-2, which makes sound too",
                got=name,
                expected="LTX-Video 0.9",
            )
    parts = {}
    for part in (_transformer(names, known), _vae(names, known), _upsampler(source, known), _text(names)):
        if part is not None:
            parts[part.kind] = part
    if not set(parts) - {"text_encoder"}:
        lora = any(mark in name for name in names for mark in ("lora_A.", "lora_down.", "lora_up."))
        raise CheckpointError(
            f"{source.path} is no LTX-Video checkpoint",
            got=f"tensors such as {', '.join(name[:60] for name in names[:3]) or '(none)'}",
            expected="a transformer, a VAE or a latent upsampler",
            fix="it is a LoRA: give it to a pipeline's load_lora_weights" if lora else None,
        )
    return parts


def layout_of(source: TensorSource, parts: dict[str, FoundPart]) -> str:
    """Whose kind of file this is: "gguf", "diffusers", "comfy" or "official".

    ComfyUI reads official files and writes the same names, so that its files are told by what only they have: a text
    encoder, scales of fp8 weights, ComfyUI's prefix without "model.", or its remarks in the metadata.
    """
    if source.path.suffix.lower() == ".gguf":
        return "gguf"
    ours = [part for part in parts.values() if part.kind != "text_encoder"]
    if all(part.naming == "diffusers" for part in ours):
        return "diffusers"
    comfy = (
        "text_encoder" in parts
        or any(part.prefix in ("diffusion_model.", "first_stage_model.") for part in ours)
        or any(name.endswith((".scale_weight", "scaled_fp8", ".comfy_quant")) for name in source.names())
        or any(key in source.metadata for key in ("prompt", "workflow"))
    )
    return "comfy" if comfy else "official"


def _transformer(names: list[str], known: set[str]) -> FoundPart | None:
    for prefix in TRANSFORMER_PREFIXES:
        for first, naming in (("patchify_proj.weight", "official"), ("proj_in.weight", "diffusers")):
            if prefix + first in known and f"{prefix}scale_shift_table" in known:
                inside = names if prefix else [name for name in names if not _is_other(name)]
                own = [name for name in inside if name.startswith(prefix)]
                return FoundPart("transformer", naming, prefix, own)
    return None


def _is_other(name: str) -> bool:
    """Whether a name without a transformer's prefix belongs to another model in the same file."""
    return name.startswith((*VAE_PREFIXES[:-1], *TEXT_ENCODER_PREFIXES))


def _vae(names: list[str], known: set[str]) -> FoundPart | None:
    for prefix in VAE_PREFIXES:
        if f"{prefix}encoder.conv_in.conv.weight" in known or f"{prefix}decoder.conv_in.conv.weight" in known:
            own = [name for name in names if name.startswith(tuple(prefix + side for side in _VAE_SIDES))]
            ours = any(
                name.removeprefix(prefix).startswith(("encoder.mid_block", "latents_")) for name in own
            )
            return FoundPart("vae", "diffusers" if ours else "official", prefix, own)
    return None


def _upsampler(source: TensorSource, known: set[str]) -> FoundPart | None:
    """An upsampler, alone in its file; in time if its step of resolution is a 3D convolution to twice the channels."""
    if "initial_conv.weight" not in known or "upsampler.0.weight" not in known:
        return None
    shape = source.info("upsampler.0.weight").shape
    in_time = len(shape) == 5 and shape[0] == 2 * shape[1]
    kind = "temporal_upsampler" if in_time else "spatial_upsampler"
    naming = "diffusers" if source.config is not None else "official"
    return FoundPart(kind, naming, "", list(source.names()))


def _text(names: list[str]) -> FoundPart | None:
    for prefix in TEXT_ENCODER_PREFIXES:
        own = [name for name in names if name.startswith(prefix)]
        if own:
            return FoundPart("text_encoder", "official", prefix, own)
    return None
