"""The two-stage recipe: a small video, its latents upsampled, and a second pass at twice the size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.pipelines.ltx.pipeline_output import LTXPipelineOutput
from torch.nn import functional

from ..errors import InputError
from .frames import to_output
from .images import pixel_frames
from .media import ReferenceVideo, RegionOfVideo, VideoCondition
from .pipeline_ltx_condition import LTXConditionPipeline, listed_conditions
from .pipeline_ltx_latent_upsample import upsample_latents
from .presets import STEPS, Preset, get_preset, preset_of, unsaid
from .prompt_enhancement import asked_once
from .request import FALLBACK_SIZE


def generate_in_two_stages(
    pipeline: LTXConditionPipeline,
    upsampler: torch.nn.Module,
    *,
    downscale: float = 2 / 3,
    preset: str | Preset | None = "auto",
    first: Mapping[str, Any] | None = None,
    second: Mapping[str, Any] | None = None,
    **call: Any,
) -> LTXPipelineOutput:
    """Generate at reduced size, upsample the latents, refine them at twice that size, resize to what was asked.

    As the official multi-scale pipeline: the upsampled latents get the first pass's statistics, conditions are given
    to both passes in their sizes, tone mapping is done where the second pass decodes.

    Args:
        pipeline: Runs both passes.
        upsampler: `LTXLatentUpsampler` in space.
        downscale: Size of the first pass to that of the video; floored to the latents' grid.
        preset: Settings of the passes where `call` says nothing: a `Preset`, its name, "auto" for that of the loaded
            model, or None. With it, steps in `call` are those of the first pass.
        first: Arguments of the first pass that differ from `call` and the preset.
        second: The same for the second pass. Without a preset it must say where to begin: `sigmas`,
            `denoise_strength` or `skip_initial_inference_steps`.
        **call: Arguments of `LTXConditionPipeline.__call__` for both passes. `height` and `width` are those of the
            finished video; clips and regions have that size, too.

    Returns:
        The videos as `.frames`, in the form of `output_type`; "latent" gives those of the second pass.

    Raises:
        InputError: If an argument can't be used; those of the second pass are found only after the first.
    """
    defaults = pipeline.transformer.config
    width = call.pop("width", None) or defaults.get("default_width") or FALLBACK_SIZE["width"]
    height = call.pop("height", None) or defaults.get("default_height") or FALLBACK_SIZE["height"]
    ratios = pipeline.ratios
    small = tuple(
        int(side * downscale) // ratio * ratio
        for side, ratio in ((height, ratios.height), (width, ratios.width))
    )
    if min(small) < 1:
        raise InputError("nothing is left of the first pass", got=f"{width}x{height} times {downscale:.3g}")
    large = (2 * small[0], 2 * small[1])
    settings = preset
    if isinstance(preset, str):
        settings = preset_of(defaults, pipeline.scheduler.config) if preset == "auto" else get_preset(preset)
    passes = [dict(first or {}), dict(second or {})]
    if settings is not None and settings.first is not None:
        later = {name: None for name in STEPS if name in call}
        passes = [
            unsaid(settings.first, call) | passes[0],
            later | unsaid(settings.second, call | later) | passes[1],
        ]
    elif not {"sigmas", "timesteps", "denoise_strength", "skip_initial_inference_steps"} & passes[1].keys():
        raise InputError(
            "this model has no preset for two stages, so the second pass must say where it begins",
            got=f"second={second}",
            expected="sigmas, denoise_strength or skip_initial_inference_steps in second=",
        )
    output_type = call.pop("output_type", "pil")
    given = listed_conditions(call)
    shared = {name: value for name, value in call.items() if name not in _CONDITIONS} | {"preset": None}
    if shared.get("prompt_enhancer") is not None:
        shared["prompt_enhancer"] = asked_once(shared["prompt_enhancer"])
    latents = pipeline(
        **shared | _sized(given, small) | passes[0], height=small[0], width=small[1], output_type="latent"
    ).frames
    upsampled = upsample_latents(pipeline.vae, upsampler, latents)
    frames = pipeline(
        **shared | _sized(given, large) | passes[1],
        height=large[0],
        width=large[1],
        initial_latents=upsampled,
        output_type="latent" if output_type == "latent" else "pt",
    ).frames
    if output_type == "latent":
        return LTXPipelineOutput(frames=frames)
    resized = functional.interpolate(
        frames.flatten(0, 1).float(), (height, width), mode="bilinear", align_corners=False
    ).unflatten(0, frames.shape[:2])
    return LTXPipelineOutput(frames=to_output(2 * resized.transpose(1, 2) - 1, output_type))


_CONDITIONS = ("conditions", "image", "video", "frame_index", "strength")


def _sized(given: Sequence[Sequence[Any]], size: tuple[int, int]) -> dict[str, Any]:
    """The conditions for a pass of another size."""
    resized = [[_resized(entry, size) for entry in entries] for entries in given]
    if not any(resized):
        return {}
    return {"conditions": resized[0] if len(resized) == 1 else resized}


def _resized(entry: Any, size: tuple[int, int]) -> Any:
    if isinstance(entry, ReferenceVideo):
        return entry
    if isinstance(entry, RegionOfVideo):
        keep = torch.as_tensor(entry.keep).float()
        keep = functional.interpolate(keep.reshape(1, -1, *keep.shape[-2:]), size, mode="area")[0] == 1
        return replace(
            entry, video=_resized_clip(entry.video, size), keep=keep if keep.shape[0] > 1 else keep[0]
        )
    if getattr(entry, "place", None) is not None:
        raise InputError("a picture placed on the canvas can't be given to two passes of different sizes")
    if isinstance(entry, VideoCondition) and entry.video is not None and entry.fit is None:
        return replace(entry, video=_resized_clip(entry.video, size))
    return entry


def _resized_clip(video: Any, size: tuple[int, int]) -> list[torch.Tensor]:
    """Pictures (3, H, W) in [0, 1] of another size."""
    return list((pixel_frames(video, *size)[:, :, 0] + 1) / 2)
