"""Text to video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.pipelines.ltx.pipeline_output import LTXPipelineOutput
from torch import Tensor

from .base import LTXPipelineBase
from .request import Request


class LTXPipeline(LTXPipelineBase):
    """Text-to-video with LTX-Video, for every release.

    The call is that of Diffusers' `LTXPipeline`. What is right for a release comes from the configs of the
    components, so defaults are None where Diffusers has numbers. Other differences, all towards the official
    model: the text encoder gets its mask, texts may have 256 tokens, time coordinates follow the release,
    noise for the decoder is mixed in before latents are de-normalised, and a list of generators gives each
    video what it would get alone.

    Example:
        >>> pipe = LTXPipeline.from_pretrained("Lightricks/LTX-Video", dtype=torch.bfloat16).to("cuda")
        >>> frames = pipe("a red kite over the sea", num_inference_steps=40).frames[0]
    """

    def __call__(
        self,
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
    ) -> LTXPipelineOutput | tuple:
        """Generate videos.

        Args:
            prompt: What to show, one text or several; or pass `prompt_embeds`.
            negative_prompt: What to keep away from, one text for all prompts or one for each; "" if left out.
            height: Pixels, a multiple of 32. None: the transformer's `default_height`, else 512.
            width: Pixels, a multiple of 32. None: the transformer's `default_width`, else 704.
            num_frames: 8k + 1 frames. None: the transformer's `default_num_frames`, else 161.
            frame_rate: Frames per second that the motion is meant for. None: the transformer's
                `default_frame_rate`, else 25.
            num_inference_steps: None: the scheduler's `default_num_inference_steps`, else 50.
            timesteps: Explicit noise levels in (0, 1000], falling.
            guidance_scale: Weight of the prompt; at most 1 switches guidance off. None: the scheduler's
                `default_guidance_scale`, else 3.
            guidance_rescale: Brings the contrast back to that of the unguided video: 0 is off, 1 is full.
            num_videos_per_prompt: Videos for each prompt.
            generator: Source of all random numbers, one, or a list with one for each video.
            latents: Noise to start from as tokens (B, L, C), L = latent frames * rows * columns.
            prompt_embeds: Features of the prompts (prompts, tokens, channels).
            prompt_attention_mask: Their mask (prompts, tokens).
            negative_prompt_embeds: Features of the negative prompts.
            negative_prompt_attention_mask: Their mask.
            decode_timestep: Noise level in [0, 1] that a decoder with timestep conditioning is told, one number,
                one for each prompt or for each video. None: the VAE's `default_decode_timestep`, else 0.05.
            decode_noise_scale: Share of noise mixed in for such a decoder. None: `decode_timestep` if that is
                given, as in Diffusers; else the VAE's `default_decode_noise_scale`, else 0.025.
            output_type: "pil", "np", "pt" (videos in [0, 1]), "latent" (normalised tokens (B, L, C)), or "stream":
                an iterator of uint8 arrays (B, f, H, W, 3), whose frames are decoded while they are taken.
            return_dict: Whether to return an `LTXPipelineOutput` instead of a tuple.
            attention_kwargs: Passed on to the transformer; {"scale": 0.5} weighs LoRA layers.
            callback_on_step_end: Called as (pipeline, index, timestep, tensors) after each step; what it returns
                for "latents" and "prompt_embeds" ([negative, positive] as one batch) is used from then on.
            callback_on_step_end_tensor_inputs: Which tensors it gets, of `_callback_tensor_inputs`.
            max_sequence_length: Tokens that a text is padded or cut to; the model was trained with 256.
            sigmas: Explicit noise levels in (0, 1], falling.

        Returns:
            The videos as `.frames`, or in a tuple.

        Raises:
            InputError: If an argument can't be used; before anything is computed.
        """
        return self._generate(Request.from_call(locals()))
