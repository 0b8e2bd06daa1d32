"""A loaded pipeline run with settings, its stages timed and shown."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.frame_stream import FrameStream
from ..geometry import VideoSize
from ..pipelines.presets import Preset, get_preset, preset_of
from ..pipelines.request import STREAM, Request, with_defaults
from ..pipelines.schedule import set_schedule, skip_steps
from ..pipelines.two_stage import generate_in_two_stages
from .given_media import DEFAULT_DENOISE_STRENGTH, Media, build_arguments
from .settings import NO_PRESET, Settings

if TYPE_CHECKING:
    from .stages import Stages

DEFAULT_REFINE_STRENGTH = 0.4
"""Share of the steps that a second pass runs where no preset says where it begins."""

_PASSED = (
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "num_frames",
    "frame_rate",
    "num_inference_steps",
    "guidance_scale",
    "sampler",
    "decode_timestep",
    "decode_noise_scale",
)
_FROM_THE_MODEL = (
    "width",
    "height",
    "num_frames",
    "frame_rate",
    "decode_timestep",
    "decode_noise_scale",
)


def run_pipeline(
    pipeline: Any,
    settings: Settings,
    media: Media,
    stages: Stages,
    *,
    upsampler: torch.nn.Module | None = None,
) -> tuple[Settings, np.ndarray | FrameStream, int]:
    """Generate with a loaded pipeline, with the stages text, denoise (refine) and decode.

    Args:
        pipeline: `LTXConditionPipeline`.
        settings: With a seed; what is None is taken from the preset or the pipeline's components.
        media: Contents of the files that the settings name.
        stages: Gets the times.
        upsampler: For two stages.

    Returns:
        The settings with nothing left open, the frames, uint8 (F, H, W, 3) or a stream of them that are decoded
        while they are taken, and the number of steps.

    Raises:
        InputError: If something doesn't fit; before any model runs.
    """
    settings, preset = _with_preset(pipeline, settings)
    settings = _with_defaults(pipeline, settings)
    size = VideoSize(settings.num_frames, settings.height, settings.width)
    call = {name: getattr(settings, name) for name in _PASSED}
    call |= build_arguments(settings, media, size, settings.frame_rate)
    if settings.condition_noise is not None:
        call["image_cond_noise_scale"] = settings.condition_noise
    if settings.strength_rule is not None:
        call["strength_rule"] = settings.strength_rule
    one_stage = call | {"preset": None if upsampler is not None else preset}
    checked = pipeline._prepared(Request.from_call(_call_defaults(pipeline) | one_stage))
    settings = _as_it_runs(settings, checked)
    total = None if upsampler is not None else _num_steps(pipeline, checked)

    stages.begin("text")
    call |= _encoded(pipeline, settings, guided=checked.guided or upsampler is not None)
    names = ("denoise", "refine") if upsampler is not None else ("denoise",)
    progress = _Progress(stages, names, total_known=total is not None)
    call |= {
        # Drawn on the CPU, so that the noise doesn't depend on the device.
        "generator": torch.Generator("cpu").manual_seed(settings.seed),
        # Frames are written as they are decoded, unless they are needed together.
        "output_type": "np" if upsampler is not None or settings.join else STREAM,
        "callback_on_step_end": progress,
        "callback_on_step_end_tensor_inputs": [],
    }
    stages.begin("denoise", total)
    if upsampler is None:
        output = pipeline(**call, preset=preset)
    else:
        output = generate_in_two_stages(
            pipeline, upsampler, **call, preset=preset, **_passes(settings, preset)
        )
    if call["output_type"] == STREAM:
        return settings, FrameStream(_taken(output.frames, stages), *size), progress.steps
    return settings, (output.frames[0] * 255).round().astype(np.uint8), progress.steps


def _taken(pieces: Iterator[np.ndarray], stages: Stages) -> Iterator[np.ndarray]:
    """The first video's frames; what happens between its pieces is counted as writing."""
    for piece in pieces:
        stages.begin("write")
        yield piece[0]
        stages.begin("decode")
    stages.begin("write")


class _Progress:
    """Called after each step of one or two passes: shows them as stages, and what comes behind them.

    Args:
        stages: Where they are shown.
        names: A name for each pass.
        total_known: Whether the first of these stages was begun with its number of steps.

    Attributes:
        steps: Steps done so far.
    """

    only_watches = True

    def __init__(self, stages: Stages, names: tuple[str, ...], *, total_known: bool) -> None:
        self._stages = stages
        self._total_known = total_known
        self._names = list(names)
        self.steps = 0

    def __call__(self, pipeline: Any, index: int, timestep: torch.Tensor, tensors: dict) -> dict:
        """After the step `index` of a pass."""
        if index == 0 and not self._total_known:
            self._stages.begin(self._names[0], total=pipeline.num_timesteps)
        self._stages.advance()
        self.steps += 1
        if index + 1 == pipeline.num_timesteps:
            self._names.pop(0)
            self._stages.begin(self._names[0] if self._names else "decode")
        return {}


def _with_preset(pipeline: Any, settings: Settings) -> tuple[Settings, Preset | None]:
    """The preset, and the settings with its name: that of the loaded model if none is named."""
    if settings.preset is not None:
        return settings, None if settings.preset == NO_PRESET else get_preset(settings.preset)
    preset = preset_of(pipeline.transformer.config, pipeline.scheduler.config)
    return replace(settings, preset=NO_PRESET if preset is None else preset.name), preset


def _with_defaults(pipeline: Any, settings: Settings) -> Settings:
    """The settings with what the model's components state, but not what a preset may say."""
    arguments = {name: getattr(settings, name) for name in _PASSED}
    request = Request.from_call(_call_defaults(pipeline) | arguments)
    configs = (pipeline.transformer.config, pipeline.vae.config, pipeline.scheduler.config)
    filled = with_defaults(request, *configs)
    changes = {name: getattr(filled, name) for name in _FROM_THE_MODEL}
    if settings.from_video is not None and settings.denoise_strength is None:
        changes["denoise_strength"] = DEFAULT_DENOISE_STRENGTH
    if settings.two_stage and settings.refine_strength is None and not _is_for_two_stages(settings):
        changes["refine_strength"] = DEFAULT_REFINE_STRENGTH
    return replace(settings, **changes)


def _is_for_two_stages(settings: Settings) -> bool:
    return settings.preset != NO_PRESET and get_preset(settings.preset).second is not None


def _as_it_runs(settings: Settings, checked: Request) -> Settings:
    """The settings with what the call takes from the model, where no preset says it."""
    changes: dict[str, Any] = {}
    if checked.conditions is not None:
        changes["condition_noise"] = checked.image_cond_noise_scale
    if settings.preset == NO_PRESET:
        changes["num_inference_steps"] = checked.num_inference_steps
    if settings.preset == NO_PRESET or settings.guidance_scale is not None:
        changes["guidance_scale"] = checked.guidance_scale
    return replace(settings, **changes)


def _num_steps(pipeline: Any, checked: Request) -> int:
    """Steps of a call; finds, before any model runs, a schedule that the model doesn't allow."""
    size = checked.latent_size(pipeline.ratios)
    set_schedule(
        pipeline.scheduler,
        checked,
        num_tokens=size.frames * size.height * size.width,
        vae_config=pipeline.vae.config,
        device="cpu",
    )
    skip_steps(pipeline.scheduler, *checked.skipped_steps(len(pipeline.scheduler.timesteps)))
    return len(pipeline.scheduler.timesteps)


def _encoded(pipeline: Any, settings: Settings, *, guided: bool) -> dict[str, Any]:
    """Features of the texts, as arguments in their place."""
    names = (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    )
    with torch.no_grad():
        features = pipeline.encode_prompt(settings.prompt, settings.negative_prompt, guided)
    return {"prompt": None, "negative_prompt": None} | dict(zip(names, features, strict=True))


def _passes(settings: Settings, preset: Preset | None) -> dict[str, dict[str, Any]]:
    """Arguments of the two passes that win over the preset's."""
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}
    if preset is None or preset.first is None:
        return {"first": first, "second": {"denoise_strength": settings.refine_strength}}
    if settings.guidance_scale is not None:
        first["guidance"] = second["guidance"] = None
    if settings.num_inference_steps is not None:
        first |= {
            "num_inference_steps": settings.num_inference_steps,
            "sigmas": None,
            "skip_final_inference_steps": 0,
        }
    if settings.refine_strength is not None:
        second |= {
            "denoise_strength": settings.refine_strength,
            "skip_initial_inference_steps": 0,
            "sigmas": None,
            "num_inference_steps": settings.num_inference_steps or preset.second.num_inference_steps,
        }
    return {"first": first, "second": second}


def _call_defaults(pipeline: Any) -> dict[str, Any]:
    """The arguments of the pipeline's call and what they are if left out."""
    parameters = inspect.signature(type(pipeline).__call__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}
