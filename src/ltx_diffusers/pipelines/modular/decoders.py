"""The block that decodes latents to videos."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.modular_pipelines import ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam

from ...errors import InputError
from ..decoding import decode_latents
from ..frames import to_output
from ..request import OUTPUT_TYPES, per_video
from .core import placeholders, request_of, steps_of
from .parameters import MODEL_NAME, components, inputs, outputs


class LTXConditionDecodeStep(ModularPipelineBlocks):
    """Latents to videos."""

    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        """What the block does."""
        return "Decodes normalised latents (B, C, F, H, W) by the VAE."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """What it runs."""
        return components("vae")

    @property
    def inputs(self) -> list[InputParam]:
        """What it takes."""
        return inputs(
            "decode_timestep",
            "decode_noise_scale",
            "tone_map_compression",
            "generator",
            "output_type",
            "batch_size",
            required=("latents",),
        )

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """What it adds to the state."""
        return outputs("videos")

    @torch.no_grad()
    def __call__(self, pipeline: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Run the block.

        Raises:
            InputError: If `output_type` is unknown, or the latents don't fit the VAE or the batch.
        """
        block = self.get_block_state(state)
        _check(block.latents, block.output_type, pipeline.vae)
        videos, prompts = block.latents.shape[0], block.batch_size
        if videos % prompts:
            prompts = videos
        request = request_of(
            steps_of(pipeline), block, **placeholders(prompts), num_videos_per_prompt=videos // prompts
        )
        if request.output_type == "latent":
            block.videos = block.latents
        else:
            decoded = decode_latents(
                pipeline.vae,
                block.latents.to(pipeline._execution_device, torch.float32),
                timestep=per_video(request, "decode_timestep"),
                noise_scale=per_video(request, "decode_noise_scale"),
                generator=request.generator,
                tone_map_compression=request.tone_map_compression,
            )
            block.videos = to_output(decoded, request.output_type, overwrite=True)
        self.set_block_state(state, block)
        return pipeline, state


def _check(latents: torch.Tensor, output_type: str, vae: Any) -> None:
    if output_type not in OUTPUT_TYPES:
        raise InputError("unknown output_type", got=output_type, expected=", ".join(OUTPUT_TYPES))
    channels = vae.config.latent_channels
    if latents.ndim != 5 or latents.shape[1] != channels:
        raise InputError(
            "latents has the wrong shape",
            got=tuple(latents.shape),
            expected=f"(B, {channels}, F, H, W)",
            fix="unpack tokens with functional.latents.unpack_latents" if latents.ndim == 3 else None,
        )
