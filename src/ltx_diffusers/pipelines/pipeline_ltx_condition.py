"""Everything that can be given: pictures and clips at any frame, regions, references, a video to start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.ltx.pipeline_output import LTXPipelineOutput
from diffusers.utils.torch_utils import is_compiled_module
from torch import Tensor

from ..denoising.conditions import Condition
from ..denoising.guidance import Guidance, GuidanceByLevel
from ..denoising.guidance.diffusers_guiders import as_guidance
from ..denoising.samplers import Sampler, own_copy, samplers
from ..denoising.state import TokenState, check_strength_rule, target_latents
from ..errors import InputError
from ..functional.latents import pack_latents, unpack_latents
from ..geometry import VideoSize
from ..models.transformers.transformer_ltx import LTXTransformer3DModel
from .base import LTXPipelineBase
from .groups import equal_groups, in_order, part_of, videos_of
from .images import encode_frames, split_images
from .media import Given, VideoCondition, checked_conditions, clip_pictures, structure, video_pixels
from .media_encoding import build_conditions
from .presets import Preset, get_preset, preset_of, unsaid
from .prompt_enhancement import Enhancer, enhanced_prompts, first_pictures
from .request import STREAM, Request, is_number


class LTXConditionPipeline(LTXPipelineBase):
    """Video from a prompt and any mixture of conditions, with every guidance and sampler.

    First and last frame, keyframes, extension forward and backward, inpainting, retakes and in-context references
    are conditions, alone or together; video-to-video is a start from a noised video. The first arguments are those
    of Diffusers' `LTXConditionPipeline`; unlike it, batches may have a list of conditions for each prompt, and the
    release decides on schedule and coordinates (see `LTXPipeline`).

    Example:
        >>> pipe = LTXConditionPipeline.from_pretrained("Lightricks/LTX-Video-0.9.7-dev", dtype=torch.bfloat16)
        >>> ends = [VideoCondition(image=first), VideoCondition(image=last, frame_index=-1)]
        >>> frames = pipe(ends, prompt="a red kite over the sea", num_frames=97).frames[0]
    """

    def __call__(
        self,
        conditions: Any = None,
        image: PipelineImageInput | None = None,
        video: Any = None,
        frame_index: int | list[int] = 0,
        strength: float | list[float] = 1.0,
        denoise_strength: float = 1.0,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        frame_rate: float | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        image_cond_noise_scale: float = 0.15,
        num_videos_per_prompt: int | None = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        decode_timestep: float | list[float] | None = None,
        decode_noise_scale: float | list[float] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[..., dict[str, Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int = 256,
        sigmas: Sequence[float] | None = None,
        initial_video: Any = None,
        initial_latents: Tensor | None = None,
        strength_rule: str = "official",
        guidance: Guidance | GuidanceByLevel | BaseGuidance | None = None,
        sampler: str | Sampler | None = None,
        tone_map_compression: float = 0.0,
        skip_initial_inference_steps: int = 0,
        skip_final_inference_steps: int = 0,
        preset: str | Preset | None = "auto",
        prompt_enhancer: Enhancer | None = None,
    ) -> LTXPipelineOutput | tuple:
        """Generate videos.

        Args:
            conditions: `VideoCondition`, `RegionOfVideo`, `ReferenceVideo` (`pipelines.media`), or Diffusers'
                `LTXVideoCondition`: one, a list for all prompts, or a list of such lists, one for each prompt.
                Their order doesn't matter. Prompts whose conditions are of different kinds run one group after the
                other; a callback then sees each group's steps.
            image: A short form of conditions: pictures, at `frame_index` with `strength`.
            video: A short form of one condition: a clip, at `frame_index` with `strength`.
            frame_index: Frames of `image` or `video`, one or as many as there are.
            strength: Their strengths, one or as many as there are.
            denoise_strength: Share of the steps that is run, the last ones; the video then starts from
                `initial_video`, `initial_latents` or `latents`, noised to the first of them.
            prompt: As every argument that isn't listed here: see `LTXPipeline.__call__`.
            image_cond_noise_scale: Noise on tokens of full strength before each step, against videos that stand
                still; see `denoising.state.renoised`.
            latents: Noise as tokens (B, L, C); with a `denoise_strength` below 1, clean latents instead, as in
                Diffusers. (B, C, F, H, W) will do as well.
            initial_video: A video of the same size and length to start from, for all prompts.
            initial_latents: The same as normalised latents (B or 1, C, F, H, W).
            strength_rule: What strengths between 0 and 1 mean: "official" or "proportional"; see `TokenState`.
            guidance: In place of `guidance_scale` and `guidance_rescale`: any guidance, one by noise level, or a guider
                of Diffusers'; see `DiffusersGuidance`.
            sampler: Name in `denoising.samplers.samplers`, or an object, of which each run takes a copy; the
                scheduler's own steps if None.
            tone_map_compression: Presses down large latents before decoding, 0 to 1.
            skip_initial_inference_steps: Steps of the schedule left out at its start; needs something to start from.
            skip_final_inference_steps: Steps left out at its end; the last one left goes to 0.
            preset: Settings for guidance and steps where no argument says them: a `Preset`, its name in
                `pipelines.presets.PRESETS`, "auto" for that of the loaded model (if it is
                a released one, in our class), or None.
            prompt_enhancer: Writes the prompts out first, looking at given first frames if it can: a
                `PromptEnhancer`, or a function of prompts and pictures.

        Returns:
            The videos as `.frames`, or in a tuple; for "latent" normalised latents (B, C, F, H, W), as in Diffusers.

        Raises:
            InputError: If an argument can't be used; before anything is computed.
        """
        return self._generate(Request.from_call(locals()))

    def _prepared(self, request: Request) -> Request:
        if isinstance(request.latents, Tensor) and request.latents.ndim == 5:
            request = request.replaced(latents=pack_latents(request.latents))
        if request.guidance is not None:
            request = request.replaced(guidance=as_guidance(request.guidance, self._can_perturb))
        request = super()._prepared(self._with_preset(request))
        if request.prompt_enhancer is None:
            return request
        pictures = first_pictures(self._given(request), request.num_prompts)
        return request.replaced(prompt=enhanced_prompts(request.prompt_enhancer, request.prompt, pictures))

    def _frames(self, request: Request) -> Any:
        """The videos, group by group where prompts have conditions of different kinds."""
        groups = equal_groups([structure(entries) for entries in self._given(request)])
        if len(groups) == 1:
            return super()._frames(request)
        parts = []
        for prompts in groups:
            part = super()._frames(part_of(request, prompts))
            parts.append(np.concatenate(list(part), axis=1) if request.output_type == STREAM else part)
        videos = in_order(parts, [videos_of(prompts, request.num_videos_per_prompt) for prompts in groups])
        return iter([videos]) if request.output_type == STREAM else videos  # groups have no common pieces

    def _with_preset(self, request: Request) -> Request:
        """The request with the preset's settings where the caller gave none."""
        preset = request.preset
        if preset == "auto" and not self._can_perturb:
            return request
        if isinstance(preset, str):
            configs = self.transformer.config, self.scheduler.config
            preset = preset_of(*configs) if preset == "auto" else get_preset(preset)
        if preset is None:
            return request
        if not isinstance(preset, Preset):
            raise InputError("preset must be a Preset, a name or None", got=repr(preset))
        return request.replaced(**unsaid(preset.single, vars(request)))

    def _output(self, request: Request, state: TokenState) -> Any:
        return target_latents(state) if request.output_type == "latent" else super()._output(request, state)

    def _check(self, request: Request) -> None:
        super()._check(request)
        self._given(request)
        _check_start(request)
        if isinstance(request.sampler, str):
            samplers.get(request.sampler)
        elif request.sampler is not None:
            own_copy(request.sampler)
        check_strength_rule(request.strength_rule)
        if not is_number(request.tone_map_compression) or not 0 <= request.tone_map_compression <= 1:
            raise InputError("tone_map_compression must be in [0, 1]", got=request.tone_map_compression)
        noise = request.image_cond_noise_scale
        if not is_number(noise) or not 0 <= noise < float("inf"):
            raise InputError("image_cond_noise_scale must be at least 0", got=noise)
        if request.guidance is not None:
            self._check_perturbations(request.guidance)
        if request.initial_video is not None:
            size = VideoSize(request.num_frames, request.height, request.width)
            frames = len(clip_pictures(request.initial_video, size))
            if frames != size.frames:
                raise InputError(
                    "initial_video has another length than the video", got=frames, expected=size.frames
                )
        if request.initial_latents is not None:
            latent = request.latent_size(self.ratios)
            shape = (self.transformer.config.in_channels, *latent)
            given = tuple(request.initial_latents.shape)
            if given[1:] != shape or given[0] not in (1, request.num_videos):
                raise InputError(
                    "initial_latents has the wrong shape",
                    got=given,
                    expected=f"(1 or {request.num_videos}, *{shape})",
                )

    @property
    def _hides_regions(self) -> bool:
        """Whether the model was trained not to see what a region leaves out; a block alone may have no model."""
        return self.transformer is not None and bool(self.transformer.config.get("regions_hidden"))

    @property
    def _can_perturb(self) -> bool:
        """Whether the transformer, compiled or not, is ours: Diffusers' has no perturbed passes."""
        compiled = is_compiled_module(self.transformer)
        transformer = self.transformer._orig_mod if compiled else self.transformer
        return isinstance(transformer, LTXTransformer3DModel)

    def _check_perturbations(self, guidance: Guidance | GuidanceByLevel) -> None:
        for run in guidance.all_passes():
            if run.hooks is not None:
                run.hooks.check(self.transformer)
            if run.perturbation is None:
                continue
            if not self._can_perturb:
                raise InputError(
                    "guidance that perturbs attention needs our transformer",
                    got=type(self.transformer).__name__,
                    expected="LTXTransformer3DModel",
                )
            run.perturbation.check_depth(len(self.transformer.transformer_blocks))

    def _given(self, request: Request) -> list[list[Given]]:
        """Checked conditions: one list for all prompts, or one for each."""
        size = VideoSize(request.num_frames, request.height, request.width)
        per_prompt = [
            checked_conditions(entries, size, self.ratios) for entries in listed_conditions(vars(request))
        ]
        if len(per_prompt) not in (1, request.num_prompts):
            raise InputError(
                "conditions must be one list for all prompts or one for each",
                got=f"{len(per_prompt)} lists for {request.num_prompts} prompts",
            )
        return per_prompt

    def _conditions(self, request: Request, latents: Tensor | None, device: torch.device) -> list[Condition]:
        given = self._given(request)
        videos_per_entry = request.num_videos // len(given)
        size = VideoSize(request.num_frames, request.height, request.width)
        return build_conditions(
            self.vae,
            given,
            size,
            self.ratios,
            videos_per_entry,
            request.generator,
            device,
            hide_regions=self._hides_regions,
        )

    def _initial_latents(self, request: Request, device: torch.device) -> Tensor | None:
        if request.initial_video is not None:
            pixels = video_pixels(request.initial_video)[None].to(device)
            return encode_frames(self.vae, pixels, request.num_videos, request.generator)
        if request.initial_latents is not None:
            return request.initial_latents.to(device, torch.float32).expand(
                request.num_videos, -1, -1, -1, -1
            )
        if request.latents is not None and request.denoise_strength < 1:
            return unpack_latents(
                request.latents.to(device, torch.float32), *request.latent_size(self.ratios)
            )
        return None


def listed_conditions(call: Mapping[str, Any]) -> list[list[Any]]:
    """The caller's conditions: one list for all prompts, or one for each.

    Args:
        call: Arguments of a call.

    Raises:
        InputError: If both forms are given, or numbers don't fit.
    """
    given, image, video = (call.get(name) for name in ("conditions", "image", "video"))
    if given is not None:
        if image is not None or video is not None:
            raise InputError("conditions were given twice", expected="either conditions, or image or video")
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        if not any(isinstance(entry, (list, tuple)) for entry in given):
            return [given]
        if not all(isinstance(entry, (list, tuple)) for entry in given):
            raise InputError("conditions must be one list for all prompts or a list for each")
        return [list(entries) for entries in given]
    if image is None and video is None:
        return [[]]
    if image is not None and video is not None:
        raise InputError("both image and video were given", fix="pass conditions")
    media = [{"video": video}] if image is None else [{"image": picture} for picture in split_images(image)]
    frames, strengths = (
        value if isinstance(value, (list, tuple)) else [value] * len(media)
        for value in (call.get("frame_index", 0), call.get("strength", 1.0))
    )
    if len(frames) != len(media) or len(strengths) != len(media):
        raise InputError(
            "frame_index and strength need one entry for each picture or clip",
            got=f"{len(frames)} and {len(strengths)}",
            expected=len(media),
        )
    return [
        [
            VideoCondition(**medium, frame_index=frame, strength=strength)
            for medium, frame, strength in zip(media, frames, strengths, strict=True)
        ]
    ]


def _check_start(request: Request) -> None:
    """Whether the video starts from something exactly where it can."""
    if not is_number(request.denoise_strength) or not 0 < request.denoise_strength <= 1:
        raise InputError("denoise_strength must be above 0 and at most 1", got=request.denoise_strength)
    latents = request.latents if request.denoise_strength < 1 else None
    starts = [
        start for start in (request.initial_video, request.initial_latents, latents) if start is not None
    ]
    if len(starts) > 1:
        raise InputError(
            "the video was given more than one start", expected="initial_video or initial_latents"
        )
    below_one = request.denoise_strength < 1 or request.skip_initial_inference_steps > 0
    if below_one and not starts:
        raise InputError(
            "a video that starts below the first noise level needs something to start from",
            got="nothing",
            expected="initial_video or initial_latents",
        )
