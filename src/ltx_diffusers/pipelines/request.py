"""One call of a pipeline: its arguments, its defaults from the loaded components, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from ..denoising.guidance import Guidance, GuidanceByLevel
from ..denoising.samplers import Sampler
from ..denoising.state import STRENGTH_RULES
from ..errors import InputError
from ..geometry import CompressionRatios, VideoSize, check_video_size, latent_size

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
STREAM = "stream"
"""What gives a video's frames while they are decoded; pipelines that denoise one video as a whole take it, too."""

# Diffusers' defaults, for components whose configs have none.
FALLBACK_SIZE = {"height": 512, "width": 704, "num_frames": 161, "frame_rate": 25}
FALLBACK_STEPS = 50
FALLBACK_GUIDANCE = 3.0
# The released models' defaults, for VAEs with timestep conditioning whose configs have none.
FALLBACK_DECODE_TIMESTEP = 0.05
FALLBACK_DECODE_NOISE = 0.025


@dataclass(frozen=True)
class Request:
    """The arguments of one call; see `LTXPipeline.__call__` for their meaning."""

    prompt: str | list[str] | None
    negative_prompt: str | list[str] | None
    height: int | None
    width: int | None
    num_frames: int | None
    frame_rate: float | None
    num_inference_steps: int | None
    timesteps: Sequence[float] | None
    guidance_scale: float | None
    guidance_rescale: float
    num_videos_per_prompt: int | None
    generator: torch.Generator | list[torch.Generator] | None
    latents: Tensor | None
    prompt_embeds: Tensor | None
    prompt_attention_mask: Tensor | None
    negative_prompt_embeds: Tensor | None
    negative_prompt_attention_mask: Tensor | None
    decode_timestep: float | list[float] | None
    decode_noise_scale: float | list[float] | None
    output_type: str
    return_dict: bool
    attention_kwargs: dict[str, Any] | None
    callback_on_step_end: Callable[..., dict[str, Tensor]] | None
    callback_on_step_end_tensor_inputs: list[str]
    max_sequence_length: int
    sigmas: Sequence[float] | None
    image: Any = None
    # LTXConditionPipeline's.
    conditions: Any = None
    video: Any = None
    frame_index: int | list[int] = 0
    strength: float | list[float] = 1.0
    initial_video: Any = None
    initial_latents: Tensor | None = None
    denoise_strength: float = 1.0
    image_cond_noise_scale: float = 0.0
    strength_rule: str = STRENGTH_RULES[0]
    guidance: Guidance | GuidanceByLevel | None = None
    sampler: str | Sampler | None = None
    tone_map_compression: float = 0.0
    skip_initial_inference_steps: int = 0
    skip_final_inference_steps: int = 0
    preset: Any = None
    prompt_enhancer: Any = None

    @classmethod
    def from_call(cls, arguments: Mapping[str, Any]) -> Request:
        """From `locals()` on the first line of a pipeline's `__call__`, so that they are listed only there."""
        return cls(**{name: value for name, value in arguments.items() if name != "self"})

    def replaced(self, **changes: Any) -> Request:
        """The request with other values for some arguments."""
        return replace(self, **changes)

    @property
    def num_prompts(self) -> int:
        """Prompts, given as text or as features."""
        if self.prompt is None:
            return self.prompt_embeds.shape[0]
        return 1 if isinstance(self.prompt, str) else len(self.prompt)

    @property
    def num_videos(self) -> int:
        """Videos to generate, the batch size B."""
        return self.num_prompts * self.num_videos_per_prompt

    @property
    def guided(self) -> bool:
        """Whether a negative pass is run."""
        if self.guidance is None:
            return self.guidance_scale > 1
        return any(run.text == "negative" for run in self.guidance.all_passes())

    def skipped_steps(self, num_steps: int) -> tuple[int, int]:
        """How many of the schedule's steps are left out at its start and its end."""
        by_strength = num_steps - min(int(num_steps * self.denoise_strength), num_steps)
        return self.skip_initial_inference_steps + by_strength, self.skip_final_inference_steps

    def latent_size(self, ratios: CompressionRatios) -> VideoSize:
        """Size of the video in latents."""
        return latent_size(VideoSize(self.num_frames, self.height, self.width), ratios)


def with_defaults(
    request: Request,
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    scheduler: Mapping[str, Any],
) -> Request:
    """Fill what the caller left out from the configs of the components: the model owns its settings.

    Args:
        request: The call.
        transformer: Config; `default_height`, `default_width`, `default_num_frames`, `default_frame_rate`.
        vae: Config; `default_decode_timestep`, `default_decode_noise_scale`.
        scheduler: Config; `default_num_inference_steps`, `default_guidance_scale`.
    """
    filled: dict[str, Any] = {}
    for name, fallback in FALLBACK_SIZE.items():
        if getattr(request, name) is None:
            filled[name] = transformer.get(f"default_{name}") or fallback
    if request.guidance_scale is None:
        stated = scheduler.get("default_guidance_scale")
        filled["guidance_scale"] = FALLBACK_GUIDANCE if stated is None else stated
    if request.num_inference_steps is None and request.timesteps is None and request.sigmas is None:
        filled["num_inference_steps"] = scheduler.get("default_num_inference_steps") or FALLBACK_STEPS
    if request.num_videos_per_prompt is None:
        filled["num_videos_per_prompt"] = 1
    if request.decode_timestep is None:
        stated = vae.get("default_decode_timestep")
        filled["decode_timestep"] = FALLBACK_DECODE_TIMESTEP if stated is None else stated
    if request.decode_noise_scale is None:
        if request.decode_timestep is not None:
            filled["decode_noise_scale"] = request.decode_timestep
        else:
            stated = vae.get("default_decode_noise_scale")
            filled["decode_noise_scale"] = FALLBACK_DECODE_NOISE if stated is None else stated
    return request.replaced(**filled)


def check_request(
    request: Request,
    *,
    ratios: CompressionRatios,
    latent_channels: int,
    text_channels: int | None,
    has_text_encoder: bool,
    callback_tensors: Sequence[str],
) -> None:
    """Check a call before any heavy work.

    Args:
        request: The call, with its defaults filled in.
        ratios: Compression of the VAE.
        latent_channels: Channels of a token.
        text_channels: Width of text features, None if unknown.
        has_text_encoder: Whether text can be encoded.
        callback_tensors: Names that a callback may ask for.

    Raises:
        InputError: If anything can't be used.
    """
    _check_texts(request, has_text_encoder)
    _check_features(request, text_channels)
    _check_numbers(request)
    check_video_size(request.num_frames, request.height, request.width, ratios)
    _check_batch(request, ratios, latent_channels)
    output_types = (*OUTPUT_TYPES, STREAM)
    if request.output_type not in output_types:
        raise InputError("unknown output_type", got=request.output_type, expected=", ".join(output_types))
    unknown = [name for name in request.callback_on_step_end_tensor_inputs if name not in callback_tensors]
    if unknown:
        raise InputError(
            "callback_on_step_end_tensor_inputs names unknown tensors",
            got=unknown,
            expected=f"names in {list(callback_tensors)}",
        )


def no_text_encoder() -> InputError:
    """The error for a text that can't be encoded."""
    return InputError(
        "this pipeline has no text encoder",
        fix="pass prompt_embeds, and negative_prompt_embeds or guidance_scale=1, with their masks",
    )


def _check_texts(request: Request, has_text_encoder: bool) -> None:
    if (request.prompt is None) == (request.prompt_embeds is None):
        given = "neither" if request.prompt is None else "both"
        raise InputError("a prompt is needed", got=given, expected="either prompt or prompt_embeds")
    if request.negative_prompt is not None and request.negative_prompt_embeds is not None:
        raise InputError(
            "two negative prompts were given", expected="either negative_prompt or negative_prompt_embeds"
        )
    for name in ("prompt", "negative_prompt"):
        text = getattr(request, name)
        is_list = isinstance(text, list) and text and all(isinstance(entry, str) for entry in text)
        if text is not None and not isinstance(text, str) and not is_list:
            raise InputError(f"{name} must be a string or a list of strings", got=repr(text))
    if isinstance(request.negative_prompt, list) and len(request.negative_prompt) != request.num_prompts:
        raise InputError(
            "negative_prompt must be one text or one for each prompt",
            got=len(request.negative_prompt),
            expected=request.num_prompts,
        )
    needs_encoder = request.prompt is not None or (request.guided and request.negative_prompt_embeds is None)
    if needs_encoder and not has_text_encoder:
        raise no_text_encoder()


def check_embeds(kind: str, embeds: Tensor, mask: Tensor | None, text_channels: int | None) -> None:
    """Check features that are given in place of texts.

    Args:
        kind: "prompt" or "negative_prompt", for messages.
        embeds: Features (prompts, tokens, channels).
        mask: Their mask (prompts, tokens).
        text_channels: The channels that the transformer takes, None if unknown.

    Raises:
        InputError: If a shape is wrong, or the mask is missing: without it, padding can't be told from text.
    """
    if embeds.ndim != 3 or (text_channels is not None and embeds.shape[2] != text_channels):
        raise InputError(
            f"{kind}_embeds has the wrong shape",
            got=tuple(embeds.shape),
            expected=f"(prompts, tokens, {text_channels or 'channels'})",
        )
    if mask is None or mask.shape != embeds.shape[:2]:
        raise InputError(
            f"{kind}_embeds needs a {kind}_attention_mask of the same prompts and tokens",
            got=None if mask is None else tuple(mask.shape),
            expected=tuple(embeds.shape[:2]),
        )


def _check_features(request: Request, text_channels: int | None) -> None:
    shapes = {}
    for kind in ("prompt", "negative_prompt"):
        embeds, mask = getattr(request, f"{kind}_embeds"), getattr(request, f"{kind}_attention_mask")
        if embeds is None:
            if mask is not None:
                raise InputError(f"{kind}_attention_mask was given without {kind}_embeds")
            continue
        check_embeds(kind, embeds, mask, text_channels)
        shapes[kind] = tuple(embeds.shape)
    if len(shapes) == 2 and shapes["prompt"] != shapes["negative_prompt"]:
        raise InputError(
            "prompt_embeds and negative_prompt_embeds differ in shape",
            got=shapes["negative_prompt"],
            expected=shapes["prompt"],
        )
    negative = shapes.get("negative_prompt")
    if negative is not None and negative[0] != request.num_prompts:
        raise InputError(
            "negative_prompt_embeds must have one entry for each prompt",
            got=negative[0],
            expected=request.num_prompts,
        )


def _check_numbers(request: Request) -> None:
    for name in ("num_frames", "height", "width", "num_videos_per_prompt", "max_sequence_length"):
        _check_count(name, getattr(request, name))
    if request.num_inference_steps is not None:
        _check_count("num_inference_steps", request.num_inference_steps)
    if not is_number(request.frame_rate) or not 0 < request.frame_rate < float("inf"):
        raise InputError("frame_rate must be a positive number", got=request.frame_rate)
    for name, limit in (("guidance_scale", float("inf")), ("guidance_rescale", 1)):
        value = getattr(request, name)
        if not is_number(value) or not 0 <= value <= limit or value == float("inf"):
            expected = "a number of at least 0" if limit != 1 else "a number from 0 (off) to 1 (full)"
            raise InputError(f"{name} is out of range", got=value, expected=expected)
    if request.timesteps is not None and request.sigmas is not None:
        raise InputError("both timesteps and sigmas were given", expected="one of them")


def _check_batch(request: Request, ratios: CompressionRatios, latent_channels: int) -> None:
    videos = request.num_videos
    generators = request.generator if isinstance(request.generator, list) else [request.generator]
    if isinstance(request.generator, list) and len(generators) != videos:
        raise InputError(
            "a list of generators needs one for each video", got=len(generators), expected=videos
        )
    for generator in generators:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise InputError("generator must be a torch.Generator or a list of them", got=generator)
    size = request.latent_size(ratios)
    expected = (videos, size.frames * size.height * size.width, latent_channels)
    if request.latents is not None and not isinstance(request.latents, Tensor):
        raise InputError("latents must be a tensor", got=type(request.latents).__name__, expected=expected)
    if request.latents is not None and tuple(request.latents.shape) != expected:
        raise InputError("latents has the wrong shape", got=tuple(request.latents.shape), expected=expected)
    for name in ("decode_timestep", "decode_noise_scale"):
        per_video(request, name)


def per_video(request: Request, name: str) -> list[float]:
    """`decode_timestep` or `decode_noise_scale`, one value for each video.

    The call may give one for all, one for each prompt, or one for each video.

    Raises:
        InputError: If the list has another length, or a value isn't in [0, 1].
    """
    value = getattr(request, name)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * request.num_videos
    for entry in values:
        if not is_number(entry) or not 0 <= entry <= 1:
            raise InputError(f"{name} must be in [0, 1]", got=entry)
    if len(values) == request.num_prompts:
        return [entry for entry in values for _ in range(request.num_videos_per_prompt)]
    if len(values) != request.num_videos:
        raise InputError(
            f"{name} must be one number, one for each prompt or one for each video",
            got=f"{len(values)} numbers",
            expected=f"1, {request.num_prompts} or {request.num_videos}",
        )
    return values


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1", got=value)


def is_number(value: Any) -> bool:
    """Whether a value is a number; truth values aren't."""
    return isinstance(value, Real) and not isinstance(value, bool)
