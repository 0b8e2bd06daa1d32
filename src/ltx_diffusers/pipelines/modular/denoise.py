"""The denoising loop as a block, into which others' blocks can be put."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.modular_pipelines import BlockState, LoopSequentialPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam
from torch import Tensor

from ...denoising.guidance.diffusers_guiders import as_guidance
from ...denoising.state import target_latents
from ...denoising.velocity import TextFeatures
from ...errors import InputError
from ..request import check_embeds
from ..text import repeat_features
from .core import PipelineSteps, placeholders, request_of, steps_of
from .parameters import MODEL_NAME, components, inputs, outputs


class LTXConditionDenoiseStep(LoopSequentialPipelineBlocks):
    """From noise to latents.

    Blocks in `sub_blocks` run after every step, as `block(pipeline, block_state, i=index, t=timestep)`; in
    `block_state.latents` they find the videos' tokens (B, L, C), and what they leave there goes on.
    """

    model_name = MODEL_NAME

    def __init__(self) -> None:
        super().__init__()
        self._progress_bar_config: dict[str, Any] = {}

    @property
    def description(self) -> str:
        """What the block does."""
        return (
            "Takes the tokens from the first noise level to latents, with guidance and a sampler. Blocks in its "
            "`sub_blocks` run after every step, on `latents` as tokens (B, L, C)."
        )

    @property
    def loop_expected_components(self) -> list[ComponentSpec]:
        """What it runs."""
        return components("transformer", "scheduler")

    @property
    def loop_inputs(self) -> list[InputParam]:
        """What it takes."""
        return inputs(
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
            "num_videos_per_prompt",
            "guidance_scale",
            "guidance_rescale",
            "guidance",
            "sampler",
            "image_cond_noise_scale",
            "attention_kwargs",
            "generator",
            required=("token_state", "prompt_embeds"),
        )

    @property
    def loop_intermediate_outputs(self) -> list[OutputParam]:
        """What it adds to the state."""
        latents = OutputParam("latents", Tensor, "Normalised latents of the videos (B, C, F, H, W).")
        return [*outputs("token_state"), latents]

    # Diffusers' own take the first and the last block of the loop, and here there may be none.
    @property
    def required_inputs(self) -> list[str]:
        """Names of the inputs without which it can't run."""
        needed = set(self.loop_required_inputs)
        return sorted(needed.union(*(block.required_inputs for block in self.sub_blocks.values())))

    @property
    def outputs(self) -> list[OutputParam]:
        """What it leaves in the state."""
        return self.intermediate_outputs

    @torch.no_grad()
    def __call__(self, pipeline: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Run the loop.

        Raises:
            InputError: If features are missing or don't fit the transformer or the tokens.
        """
        block = self.get_block_state(state)
        steps = steps_of(pipeline)
        steps.set_progress_bar_config(**self._progress_bar_config)
        request = request_of(steps, block, **placeholders(block.prompt_embeds.shape[0]))
        if request.guidance is not None:
            guidance = as_guidance(request.guidance, steps._can_perturb)
            steps._check_perturbations(guidance)
            request = request.replaced(guidance=guidance)
        if self.sub_blocks:
            request = request.replaced(callback_on_step_end=self._after_step(pipeline, block))
        texts = _texts(steps, block, request.guided, request.num_videos_per_prompt)
        if request.num_videos != block.token_state.tokens.shape[0]:
            raise InputError(
                "the tokens are for another number of videos than the prompts",
                got=block.token_state.tokens.shape[0],
                expected=request.num_videos,
                fix="make the tokens with the same batch_size and num_videos_per_prompt",
            )
        steps._begin(request, block.token_state.size)
        block.token_state = steps._denoised(request, texts, block.token_state)
        block.latents = target_latents(block.token_state)
        self.set_block_state(state, block)
        return pipeline, state

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Set up the loop's progress bar, as `DiffusionPipeline.set_progress_bar_config`."""
        self._progress_bar_config = kwargs

    def _after_step(self, pipeline: Any, block: BlockState) -> Any:
        """A callback that runs the blocks in the loop."""

        def after_step(
            _: Any, index: int, timestep: Tensor, tensors: Mapping[str, Tensor]
        ) -> dict[str, Tensor]:
            block.latents = tensors["latents"]
            self.loop_step(pipeline, block, i=index, t=timestep)
            return {"latents": block.latents}

        return after_step


def _texts(
    steps: PipelineSteps, block: BlockState, guided: bool, videos_per_prompt: int
) -> dict[str, TextFeatures]:
    """Features by the names of the guidance's passes, one row for each video."""
    kinds = {"positive": "prompt"} | ({"negative": "negative_prompt"} if guided else {})
    device, channels = block.token_state.tokens.device, steps.transformer.config.get("caption_channels")
    texts = {}
    for name, kind in kinds.items():
        embeds, mask = getattr(block, f"{kind}_embeds"), getattr(block, f"{kind}_attention_mask")
        if embeds is None:
            raise InputError(
                "guidance needs features of negative prompts",
                got="no negative_prompt_embeds",
                fix="encode them, or use guidance_scale=1",
            )
        check_embeds(kind, embeds, mask, channels)
        if embeds.shape[0] != block.prompt_embeds.shape[0]:
            raise InputError(
                f"{kind}_embeds has another number of rows than prompt_embeds",
                got=embeds.shape[0],
                expected=block.prompt_embeds.shape[0],
            )
        features = TextFeatures(embeds.to(device, steps.transformer.dtype), mask.to(device))
        texts[name] = repeat_features(features, videos_per_prompt)
    return texts
