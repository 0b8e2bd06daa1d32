"""A video changed by a prompt, without training: RF-inversion, FlowEdit, and editors of plugins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from diffusers.pipelines.ltx.pipeline_output import LTXPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..denoising.editing import Editor, EditStep, editors
from ..denoising.editing.base import SOURCE, TARGET, ModelOfEdit
from ..denoising.guidance import ClassifierFreeGuidance
from ..denoising.state import TokenState, from_noise, target_latents
from ..denoising.velocity import GuidedVelocity, TextFeatures
from ..errors import InputError
from ..functional.coordinates import Placement
from ..functional.latents import normalize_latents
from ..geometry import VideoSize
from .base import LTXPipelineBase
from .media import clip_pictures, sides_of, video_pixels
from .release import is_causal
from .request import Request, check_embeds, no_text_encoder


@dataclass(frozen=True)
class EditRequest(Request):
    """The arguments of one call of `LTXEditPipeline`."""

    source_prompt: str | list[str] = ""
    source_prompt_embeds: Tensor | None = None
    source_prompt_attention_mask: Tensor | None = None
    source_guidance_scale: float | None = None
    editor: str | Editor = "flow-edit"

    @property
    def source_scale(self) -> float:
        """Guidance scale under the source prompt; if not given, the editor's share of the target's."""
        if self.source_guidance_scale is not None:
            return self.source_guidance_scale
        return 1 + self.editor.source_guidance_share * max(0.0, self.guidance_scale - 1)

    @property
    def guided(self) -> bool:
        """Whether a negative pass is run, under either prompt."""
        return super().guided or self.source_scale > 1


class LTXEditPipeline(LTXPipelineBase):
    """A video and a prompt to the video as the prompt says, with what the prompt leaves open kept.

    Works with any text-to-video weights; guidance, schedule and coordinates are the model's, as in `LTXPipeline`.

    Example:
        >>> pipe = LTXEditPipeline.from_pretrained("Lightricks/LTX-Video-0.9.7-dev", dtype=torch.bfloat16)
        >>> frames = pipe(video, "a fox runs in snow", source_prompt="a dog runs in snow").frames[0]
    """

    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]
    _foretells = False  # editors look at one level for several texts, and draw anew

    def __call__(
        self,
        video: Any,
        prompt: str | list[str] | None = None,
        source_prompt: str | list[str] = "",
        editor: str | Editor = "flow-edit",
        negative_prompt: str | list[str] | None = None,
        frame_rate: float | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        source_guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        num_videos_per_prompt: int | None = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        source_prompt_embeds: Tensor | None = None,
        source_prompt_attention_mask: Tensor | None = None,
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
    ) -> LTXPipelineOutput | tuple:
        """Edit a video.

        Args:
            video: 8k + 1 pictures whose sides are multiples of 32 (`pipelines.preparation.prepare_clip` makes them
                so): a list, or an array (F, H, W, 3). One video for all prompts.
            prompt: What the video shall show. As every argument that isn't listed here: see
                `LTXPipeline.__call__`.
            source_prompt: What it shows now, one text for all prompts or one for each. FlowEdit wants it;
                RF-inversion's authors leave it empty.
            editor: Name in `denoising.editing.editors`, or an object: `FlowEdit(strength=0.7)`.
            frame_rate: That of the video, in frames per second; the model's default if None.
            guidance_scale: Under `prompt`.
            source_guidance_scale: Under `source_prompt`; if None, the editor's share of `guidance_scale`.
            negative_prompt: Serves both.
            source_prompt_embeds: Features (B, T, D) in place of `source_prompt`.
            source_prompt_attention_mask: (B, T), goes with them.
            callback_on_step_end: Called after each step, to watch ("latents") or to stop; it can't change tensors.

        Returns:
            The videos as `.frames`, or in a tuple; for "latent" normalised latents (B, C, F, H, W).

        Raises:
            InputError: If an argument can't be used; before anything is computed.
        """
        arguments = locals() | dict.fromkeys(
            ("height", "width", "num_frames", "latents")
        )  # the video says them
        return self._generate(EditRequest.from_call(arguments))

    def _prepared(self, request: EditRequest) -> EditRequest:
        pictures = clip_pictures(request.video)
        height, width = sides_of(pictures[0])
        editor = editors.get(request.editor)() if isinstance(request.editor, str) else request.editor
        return super()._prepared(
            request.replaced(editor=editor, height=height, width=width, num_frames=len(pictures))
        )

    def _check(self, request: EditRequest) -> None:
        if isinstance(request.editor, type) or not hasattr(request.editor, "edit"):
            raise InputError(
                "an editor is a name or an object",
                got=request.editor,
                expected=f"one of {', '.join(editors.list())}, or an object like FlowEdit()",
            )
        scale = request.source_guidance_scale
        if scale is not None and (isinstance(scale, bool) or not 0 <= scale < float("inf")):
            raise InputError("source_guidance_scale must be a number of at least 0", got=scale)
        super()._check(request)
        _check_source(request, self.transformer.config.get("caption_channels"), self._encodes_text)

    def _levels(self) -> list[float]:
        """The schedule's noise levels, the last one 0."""
        return [*(self.scheduler.timesteps / self.scheduler.config.num_train_timesteps).tolist(), 0.0]

    def _texts(self, request: EditRequest, device: torch.device) -> dict[str, TextFeatures]:
        levels = self._levels()
        if request.editor.num_steps(levels) < 1:  # the schedule is known only now, and no model has run yet
            raise InputError(
                "the editor leaves no step of the schedule",
                got=request.editor,
                expected=f"noise levels among {', '.join(f'{level:.3g}' for level in levels)}",
            )
        texts = super()._texts(request, device)
        prompt = request.source_prompt
        embeds, mask, _, _ = self.encode_prompt(
            [prompt] * request.num_prompts if isinstance(prompt, str) else prompt,
            None,
            False,
            request.num_videos_per_prompt,
            prompt_embeds=request.source_prompt_embeds,
            prompt_attention_mask=request.source_prompt_attention_mask,
            max_sequence_length=texts["positive"].embeds.shape[1],
            device=device,
        )
        return texts | {SOURCE: TextFeatures(embeds, mask)}

    def _initial_state(self, request: EditRequest, size: VideoSize, device: torch.device) -> TokenState:
        """The video's own tokens. The mean of the VAE's distribution is taken, so that nothing is drawn."""
        pixels = video_pixels(request.video)[None].to(device, self.vae.dtype)
        latents = normalize_latents(
            self.vae.encode(pixels).latent_dist.mode().float(),
            self.vae.latents_mean,
            self.vae.latents_std,
            self.vae.config.scaling_factor,
        )
        placement = Placement(
            request.frame_rate, is_causal(self.transformer.config, self.vae.config), self.ratios
        )
        return from_noise(latents.expand(request.num_videos, -1, -1, -1, -1), placement)

    def _denoised(
        self, request: EditRequest, texts: dict[str, TextFeatures], state: TokenState
    ) -> TokenState:
        """The tokens of the edited video."""
        levels = self._levels()
        guidances = {
            TARGET: ClassifierFreeGuidance(request.guidance_scale, request.guidance_rescale),
            SOURCE: ClassifierFreeGuidance(request.source_scale, request.guidance_rescale),
        }
        model = GuidedVelocity(self.transformer, texts, guidances[TARGET], request.attention_kwargs)
        velocity = ModelOfEdit(model, state, guidances, self.scheduler.config.num_train_timesteps)
        self._num_timesteps = request.editor.num_steps(levels)

        def draw() -> Tensor:
            return randn_tensor(state.tokens.shape, request.generator, state.tokens.device, torch.float32)

        with self.progress_bar(total=self._num_timesteps) as bar:
            for index, step in enumerate(request.editor.edit(state.tokens, levels, velocity, draw)):
                state = replace(state, tokens=step.tokens)
                bar.update()
                self._report(request, index, step)
                callback = request.callback_on_step_end
                if callback is not None and not getattr(callback, "only_watches", False):
                    model.forget()  # the caller may have changed LoRAs
                if self._interrupt:
                    break
        return state

    def _report(self, request: EditRequest, index: int, step: EditStep) -> None:
        """Show the caller's callback what came of a step."""
        self._current_timestep = step.tokens.new_tensor(
            step.sigma * self.scheduler.config.num_train_timesteps
        )
        if request.callback_on_step_end is None:
            return
        tensors = {"latents": step.tokens}
        asked = {name: tensors[name] for name in request.callback_on_step_end_tensor_inputs}
        changed = request.callback_on_step_end(self, index, self._current_timestep, asked) or {}
        if any(value is not tensors.get(name) for name, value in changed.items()):
            raise InputError("a callback can't change the tensors of an edit", got=sorted(changed))

    def _output(self, request: EditRequest, state: TokenState) -> Any:
        return target_latents(state) if request.output_type == "latent" else super()._output(request, state)


def _check_source(request: EditRequest, text_channels: int | None, encodes_text: bool) -> None:
    """Check the source prompt; raises InputError."""
    embeds, mask = request.source_prompt_embeds, request.source_prompt_attention_mask
    if embeds is not None:
        check_embeds("source_prompt", embeds, mask, text_channels)
        if request.source_prompt:
            raise InputError(
                "two source prompts were given", expected="either source_prompt or source_prompt_embeds"
            )
        if request.prompt_embeds is None or embeds.shape != request.prompt_embeds.shape:
            given = request.prompt_embeds
            raise InputError(
                "source_prompt_embeds and prompt_embeds must have one shape",
                got=f"{tuple(embeds.shape)} and {None if given is None else tuple(given.shape)}",
            )
        return
    if mask is not None:
        raise InputError("source_prompt_attention_mask was given without source_prompt_embeds")
    text = request.source_prompt
    texts = [text] * request.num_prompts if isinstance(text, str) else text
    if not isinstance(texts, list) or not all(isinstance(entry, str) for entry in texts):
        raise InputError("source_prompt must be a string or a list of strings", got=repr(text))
    if len(texts) != request.num_prompts:
        raise InputError(
            "source_prompt must be one text or one for each prompt",
            got=len(texts),
            expected=request.num_prompts,
        )
    if not encodes_text:
        raise no_text_encoder()
