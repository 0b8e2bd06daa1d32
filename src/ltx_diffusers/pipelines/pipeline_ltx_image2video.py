"""Image to video: the first frame is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.ltx.pipeline_output import LTXPipelineOutput
from torch import Tensor

from ..denoising.conditions import Condition, FirstFrameCondition
from .base import LTXPipelineBase
from .images import check_images, encode_frames, pixel_frames
from .request import Request


class LTXImageToVideoPipeline(LTXPipelineBase):
    """Image-to-video with LTX-Video, for every release: text-to-video whose first frame is an image.

    The call is that of Diffusers' `LTXImageToVideoPipeline`, with the differences that `LTXPipeline` lists.

    Example:
        >>> pipe = LTXImageToVideoPipeline.from_pretrained("Lightricks/LTX-Video", dtype=torch.bfloat16)
        >>> frames = pipe(Image.open("kite.png"), "a red kite over the sea").frames[0]
    """

    def __call__(
        self,
        image: PipelineImageInput | None = None,
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
        """Generate videos that begin with an image.

        Args:
            image: First frame, one for all prompts or one for each: PIL images, arrays (H, W, 3) or tensors
                (3, H, W), uint8 or floats in [0, 1]. They are stretched to the video's size. Not used with
                `latents`.
            prompt: As every argument that isn't listed here: see `LTXPipeline.__call__`.
            latents: Tokens (B, L, C) to start from: clean latents of the first frame, then noise.

        Returns:
            The videos as `.frames`, or in a tuple.

        Raises:
            InputError: If an argument can't be used; before anything is computed.
        """
        return self._generate(Request.from_call(locals()))

    def _check(self, request: Request) -> None:
        super()._check(request)
        if request.latents is None:
            check_images(request.image, request.num_prompts)

    def _conditions(self, request: Request, latents: Tensor | None, device: torch.device) -> list[Condition]:
        if latents is not None:
            return [FirstFrameCondition(latents[:, :, :1])]
        frames = pixel_frames(request.image, request.height, request.width).to(device)
        first = encode_frames(self.vae, frames, request.num_videos // len(frames), request.generator)
        return [FirstFrameCondition(first)]
