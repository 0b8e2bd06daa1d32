"""What the pipelines share: components, loading, and the course of a call.

A pipeline adds to it its call's signature and the conditions that it builds from its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.ltx.pipeline_output import LTXPipelineOutput
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..denoising.conditions import Condition
from ..denoising.guidance import ClassifierFreeGuidance, Guidance, GuidanceByLevel
from ..denoising.loop import StepEnd, denoise
from ..denoising.samplers import samplers
from ..denoising.state import (
    TokenState,
    at_noise_level,
    from_noise,
    target_latents,
    target_tokens,
    with_target_tokens,
)
from ..denoising.velocity import GuidedVelocity, TextFeatures
from ..errors import InputError
from ..functional.coordinates import Placement
from ..functional.latents import unpack_latents
from ..functional.sigmas import schedules
from ..geometry import CompressionRatios, VideoSize
from ..integration import register, register_pipelines
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ..models.publishing import PublishesToHub
from ..models.transformers.transformer_ltx import LTXTransformer3DModel
from ..schedulers.flow_match import LTXFlowMatchScheduler
from .agreement import agreed
from .attributes import DiffusersAttributes
from .decoding import decode_latents, stream_latents
from .frames import to_output
from .lora import LTXLoraMixin
from .release import check_layout, is_causal, own_classes, state_settings
from .request import STREAM, Request, check_embeds, check_request, no_text_encoder, per_video, with_defaults
from .schedule import set_schedule, skip_steps
from .speed import ChoosesSpeed, call_back
from .text import repeat_features
from .text_keeping import KeepsTextEncoder, check_keeping, released_afterwards, set_aside

# Here, so that a pipeline imported by its full path is saved under the same names as one from the package's front.
register()
register_pipelines()


class LTXPipelineBase(
    PublishesToHub, DiffusersAttributes, ChoosesSpeed, KeepsTextEncoder, DiffusionPipeline, LTXLoraMixin
):
    """Components and steps of all LTX-Video pipelines.

    Args:
        scheduler: Ours, or a flow-matching Euler scheduler of Diffusers'.
        vae: Ours or Diffusers'.
        text_encoder: T5 encoder, or None if prompts are given as features only.
        tokenizer: Its tokenizer, or None.
        transformer: Ours or Diffusers'.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds", "negative_prompt_embeds"]

    # from_pipe reads these annotations at run time and drops components of other types.
    def __init__(
        self,
        scheduler: LTXFlowMatchScheduler | FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKLLTX | AutoencoderKLLTXVideo,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        transformer: LTXTransformer3DModel | LTXVideoTransformer3DModel,
    ) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
        )
        self._guidance_scale = 1.0
        self._guidance_rescale = 0.0
        self._given_guidance: Guidance | GuidanceByLevel | None = None
        self._attention_kwargs: dict[str, Any] | None = None
        self._num_timesteps = 0
        self._current_timestep: Tensor | None = None
        self._interrupt = False

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        causal_temporal_positioning: bool | None = None,
        schedule: str | None = None,
        keep_text_encoder: str = "always",
        **kwargs: Any,
    ) -> LTXPipelineBase:
        """Load a pipeline, ours or one in Diffusers' LTX layout, with our classes for its parts.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the Hub.
            causal_temporal_positioning: Whether time coordinates are causal (0.9.5 and later). None: as the
                transformer's config states, or else as follows from the kind of VAE, with a warning.
            schedule: Name of the sampling schedule. None: as the scheduler's config states; where it is one of
                Diffusers' that states none, as follows from the kind of VAE, with a warning.
            keep_text_encoder: "never" or "auto" load it when a text needs it, and free it as the method of this
                name says.
            **kwargs: As `DiffusionPipeline.from_pretrained` takes them: `dtype`, `variant`, `revision`,
                `token`, `cache_dir`, `local_files_only`, `quantization_config`, `device_map`, components.

        Raises:
            InputError: If it isn't an LTX-Video pipeline.
            UnknownNameError: If there is no such schedule.
        """
        if schedule is not None:
            schedules.get(schedule)  # an unknown name is refused before anything is loaded
        check_keeping(keep_text_encoder)
        source = str(pretrained_model_name_or_path)
        folder = Path(source) if Path(source).is_dir() else Path(cls.download(source, **kwargs))
        passed = [name for name in kwargs if name in cls.__init__.__annotations__]
        check_layout(folder, passed, source)
        texts, aside = set_aside(folder, kwargs, keep_text_encoder)
        pipeline = super().from_pretrained(str(folder), **kwargs, **aside)
        pipeline.register_to_config(_name_or_path=source)
        pipeline._know_text_source(texts, keep_text_encoder)
        state_settings(pipeline, folder, passed, causal_temporal_positioning, schedule)
        return pipeline

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path: str | Path,
        *,
        version: str | None = None,
        text_encoder: PreTrainedModel | str | Path | None = None,
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
        vae: AutoencoderKLLTX | AutoencoderKLLTXVideo | str | Path | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a pipeline from a checkpoint file, with the settings of its release.

        Args:
            pretrained_model_link_or_path: As in the models' `from_single_file`.
            version: The release, a key of `conversion.releases.RELEASES`, where the file can't tell.
            text_encoder: T5 encoder, or the folder or repository with one. None: prompts are given as features.
            tokenizer: Its tokenizer, or where it is; if left out, beside the text encoder.
            vae: The VAE, or where it is, for files without one or in place of the file's.
            dtype: Precision of the models. None: that of the file; for fp8 and GGUF, bfloat16.
            torch_dtype: The same, by Diffusers' older name.
            **kwargs: `fp8`, `quantization_config` (of the transformer), `device`, `allow_pickle`, and arguments for
                the Hub, as in the models' `from_single_file`.

        Raises:
            CheckpointError: If the file can't be used, or doesn't tell its release.
            InputError: If a text encoder, tokenizer or VAE can't be found.
        """
        from .single_file import load_pipeline  # with pydantic, which nothing else here needs

        return load_pipeline(
            cls,
            pretrained_model_link_or_path,
            version=version,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            vae=vae,
            dtype=dtype if dtype is not None else torch_dtype,
            **kwargs,
        )

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """A saved pipeline's index, with our classes in place of Diffusers'; they are then loaded by it."""
        config = super().load_config(*args, **kwargs)
        return own_classes(config) if isinstance(config, dict) else config

    @property
    def ratios(self) -> CompressionRatios:
        """Frames, rows and columns of pixels for one latent."""
        side = self.vae.spatial_compression_ratio
        return CompressionRatios(self.vae.temporal_compression_ratio, side, side)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the current call runs a negative pass, at some of its steps at least."""
        if self._given_guidance is not None:
            return any(run.text == "negative" for run in self._given_guidance.all_passes())
        return self._guidance_scale > 1

    @released_afterwards
    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        max_sequence_length: int = 256,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Features and masks of prompts, each repeated for its videos.

        Args:
            prompt: One or several texts; None if `prompt_embeds` is given.
            negative_prompt: One text for all prompts, or one for each; "" if left out.
            do_classifier_free_guidance: Whether to encode the negative prompt.
            num_videos_per_prompt: How often each entry is repeated, in a row.
            prompt_embeds: Features (B, T, D) in place of `prompt`.
            negative_prompt_embeds: The same for the negative prompt.
            prompt_attention_mask: (B, T), goes with `prompt_embeds`.
            negative_prompt_attention_mask: (B, T), goes with `negative_prompt_embeds`.
            max_sequence_length: Tokens T that texts are padded or cut to; the features given, if any, decide.
            device: Where the features go; where the models run if None.
            dtype: Their dtype; the transformer's if None.

        Returns:
            prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask; the
            last two None without guidance.

        Raises:
            InputError: If there is nothing to encode or nothing to encode it with, or features lack their mask.
        """
        device = device or self._execution_device
        dtype = dtype or self.transformer.dtype
        channels = None if self.transformer is None else self.transformer.config.get("caption_channels")
        given = prompt_embeds if prompt_embeds is not None else negative_prompt_embeds
        length = max_sequence_length if given is None else given.shape[1]

        def features(
            kind: str, text: str | list[str] | None, embeds: Tensor | None, mask: Tensor | None, count: int
        ) -> TextFeatures:
            if embeds is not None:
                check_embeds(kind, embeds, mask, channels)
                encoded = TextFeatures(embeds.to(device, dtype), mask.to(device))
            elif text is None:
                raise InputError("a prompt is needed", got="neither", expected="prompt or prompt_embeds")
            elif not self._encodes_text:
                raise no_text_encoder()
            else:
                texts = [text] * count if isinstance(text, str) else text
                encoded = self._encoded(texts, length, device, dtype)
            return repeat_features(encoded, num_videos_per_prompt)

        positive = features("prompt", prompt, prompt_embeds, prompt_attention_mask, 1)
        if not do_classifier_free_guidance:
            return positive.embeds, positive.mask, None, None
        count = positive.embeds.shape[0] // num_videos_per_prompt
        negative = features(
            "negative_prompt",
            negative_prompt or "",
            negative_prompt_embeds,
            negative_prompt_attention_mask,
            count,
        )
        return positive.embeds, positive.mask, negative.embeds, negative.mask

    @torch.no_grad()
    def _generate(self, request: Request) -> LTXPipelineOutput | tuple:
        """The course of a call: checks, then everything else."""
        request = self._prepared(request)
        request = agreed(request, self.speed, (self.transformer, self.vae), self._execution_device)
        self._interrupt = False
        frames = self._frames(request)
        return LTXPipelineOutput(frames=frames) if request.return_dict else (frames,)

    def _frames(self, request: Request) -> Any:
        """The videos of a call that was checked: noise levels, texts, tokens, loop, decode."""
        device = self._execution_device
        size = request.latent_size(self.ratios)
        self._set_levels(request, size, device)
        self._begin(request, size)
        texts = self._texts(request, device)
        state = self._initial_state(request, size, device)
        state = self._denoised(request, texts, state)
        frames = self._output(request, state)
        self.maybe_free_model_hooks()
        return frames

    def _set_levels(self, request: Request, size: VideoSize, device: torch.device) -> None:
        """Set the scheduler's noise levels, for videos of `size` in latents."""
        set_schedule(
            self.scheduler,
            request,
            num_tokens=size.frames * size.height * size.width,
            vae_config=self.vae.config,
            device=device,
        )
        skip_steps(self.scheduler, *request.skipped_steps(len(self.scheduler.timesteps)))

    def _begin(self, request: Request, size: VideoSize) -> None:
        """What a run knows of its call while it goes on; its noise levels are set. `size` is in latents."""
        self._guidance_scale = request.guidance_scale
        self._guidance_rescale = request.guidance_rescale
        self._attention_kwargs = request.attention_kwargs
        self._current_timestep = None
        self._num_timesteps = len(self.scheduler.timesteps)
        self._given_guidance = None
        if request.guidance is not None:
            self._given_guidance = request.guidance.for_run(self._levels(), size)

    def _denoised(self, request: Request, texts: dict[str, TextFeatures], state: TokenState) -> TokenState:
        """The tokens taken from the first noise level to latents."""
        guidance = self._guidance().at(self._levels()[0])  # until the first step names its level
        velocity = self._guided_velocity(texts, guidance, request.attention_kwargs)
        with self.progress_bar(total=self._num_timesteps) as bar:
            return denoise(
                state,
                velocity,
                self.scheduler,
                sampler=samplers.get(request.sampler)()
                if isinstance(request.sampler, str)
                else request.sampler,
                condition_noise_scale=request.image_cond_noise_scale,
                generator=request.generator,
                before_step=self._before_step(velocity),
                on_step_end=self._step_end(request, velocity, bar.update),
            )

    def _conditions(self, request: Request, latents: Tensor | None, device: torch.device) -> list[Condition]:
        """The conditions of a call. `latents` (B, C, F, H, W) are those that the caller gave, if any."""
        return []

    def _check(self, request: Request) -> None:
        """Check a call, its defaults filled in; raises InputError."""
        config = self.transformer.config
        if config.patch_size != 1 or config.patch_size_t != 1:
            raise InputError(
                "the pipelines need a transformer with one latent per token",
                got=f"patch_size={config.patch_size}, patch_size_t={config.patch_size_t}",
                expected="1 and 1",
            )
        check_request(
            request,
            ratios=self.ratios,
            latent_channels=config.in_channels,
            text_channels=config.get("caption_channels"),
            has_text_encoder=self._encodes_text,
            callback_tensors=self._callback_tensor_inputs,
        )

    def _prepared(self, request: Request) -> Request:
        """The call with its defaults, checked."""
        if isinstance(request.callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            names = request.callback_on_step_end.tensor_inputs
            request = request.replaced(callback_on_step_end_tensor_inputs=names)
        request = with_defaults(request, self.transformer.config, self.vae.config, self.scheduler.config)
        self._check(request)
        return request

    def _guidance(self) -> Guidance | GuidanceByLevel:
        if self._given_guidance is not None:
            return self._given_guidance
        return ClassifierFreeGuidance(self._guidance_scale, self._guidance_rescale)

    def _texts(self, request: Request, device: torch.device) -> dict[str, TextFeatures]:
        """Features by the names of the guidance's passes."""
        embeds, mask, negative_embeds, negative_mask = self.encode_prompt(
            request.prompt,
            request.negative_prompt,
            request.guided,
            request.num_videos_per_prompt,
            request.prompt_embeds,
            request.negative_prompt_embeds,
            request.prompt_attention_mask,
            request.negative_prompt_attention_mask,
            request.max_sequence_length,
            device,
        )
        texts = {"positive": TextFeatures(embeds, mask)}
        if request.guided:
            texts["negative"] = TextFeatures(negative_embeds, negative_mask)
        return texts

    def _initial_state(self, request: Request, size: VideoSize, device: torch.device) -> TokenState:
        """The tokens at the first noise level, with the call's conditions in them."""
        latents = None
        # With a denoise strength below 1 they are what the video starts from, not its noise.
        if request.latents is not None and request.denoise_strength == 1:
            latents = unpack_latents(request.latents.to(device, torch.float32), *size)
        # The conditions draw first (a first frame is drawn from the VAE's distribution), as in Diffusers.
        conditions = self._conditions(request, latents, device)
        if latents is None:
            shape = (request.num_videos, self.transformer.config.in_channels, *size)
            latents = randn_tensor(shape, request.generator, device, torch.float32)
        placement = Placement(
            request.frame_rate, is_causal(self.transformer.config, self.vae.config), self.ratios
        )
        clean = self._initial_latents(request, device)
        state = from_noise(latents, placement, clean, request.strength_rule)
        for condition in conditions:
            state = condition.apply_to(state)
        # Without something to begin with there is only noise, whatever the first level.
        sigma = 1.0 if clean is None else float(self.scheduler.sigmas[0])
        return at_noise_level(state, sigma, request.generator)

    def _initial_latents(self, request: Request, device: torch.device) -> Tensor | None:
        """Clean latents (B, C, F, H, W) that the video is made from, if any."""
        return None

    def _levels(self) -> list[float]:
        """Noise level of each step of the current call, in [0, 1]."""
        return (self.scheduler.timesteps / self.scheduler.config.num_train_timesteps).tolist()

    def _before_step(self, velocity: GuidedVelocity) -> Callable[[int, Tensor], bool]:
        """What happens before each step: the caller may have stopped, or changed the guidance."""
        levels = self._levels()

        def before_step(index: int, timestep: Tensor) -> bool:
            if self._interrupt:
                return False
            self._current_timestep = timestep
            velocity.guidance = self._guidance().at(levels[index])
            return True

        return before_step

    def _step_end(self, request: Request, velocity: GuidedVelocity, advance: Callable[[], Any]) -> StepEnd:
        """What happens after each step: progress, and the caller's callback, which may change things."""

        def step_end(index: int, timestep: Tensor, state: TokenState) -> TokenState:
            advance()
            if request.callback_on_step_end is None:
                return state
            passes = velocity.guidance.passes
            tensors = {
                "latents": target_tokens(state),
                "prompt_embeds": torch.cat([velocity.texts[run.text].embeds for run in passes]),
                "negative_prompt_embeds": getattr(velocity.texts.get("negative"), "embeds", None),
            }
            asked = {name: tensors[name] for name in request.callback_on_step_end_tensor_inputs}
            changed, touched = call_back(request.callback_on_step_end, self, index, timestep, asked)
            if not getattr(request.callback_on_step_end, "only_watches", False):
                velocity.forget(touched)  # also LoRAs may have been changed
            if "prompt_embeds" in changed:
                parts = changed["prompt_embeds"].split(request.num_videos)
                for run, embeds in zip(passes[-len(parts) :], parts, strict=True):
                    velocity.texts[run.text] = TextFeatures(embeds, velocity.texts[run.text].mask)
            return with_target_tokens(state, changed["latents"]) if "latents" in changed else state

        return step_end

    def _output(self, request: Request, state: TokenState) -> Any:
        if request.output_type == "latent":
            return target_tokens(state)
        decode = stream_latents if request.output_type == STREAM else decode_latents
        video = decode(
            self.vae,
            target_latents(state),
            timestep=per_video(request, "decode_timestep"),
            noise_scale=per_video(request, "decode_noise_scale"),
            generator=request.generator,
            tone_map_compression=request.tone_map_compression,
        )
        return video if request.output_type == STREAM else to_output(video, request.output_type, True)
