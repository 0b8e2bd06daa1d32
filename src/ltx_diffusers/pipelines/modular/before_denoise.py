"""Blocks before the denoising loop: the call's settings, its noise levels, its tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.modular_pipelines import ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam

from ...functional.latents import pack_latents
from .core import check_one_structure, placeholders, request_of, steps_of, texts_given
from .parameters import DEFAULTS, DESCRIPTIONS, MODEL_NAME, components, inputs, outputs


class LTXConditionSettingsStep(ModularPipelineBlocks):
    """Checks a call before any model runs, and fills in what the caller left to the model."""

    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        """What the block does."""
        return (
            "Checks the whole call before any model runs, and fills in what is left out: from the preset of the loaded "
            "model and from the configs of the components."
        )

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """What it reads."""
        return components("transformer", "vae", "scheduler")

    @property
    def inputs(self) -> list[InputParam]:
        """What it takes: every argument of the pipeline that blocks have."""
        return inputs(*(name for name in DESCRIPTIONS if name in DEFAULTS))

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """What it adds to the state."""
        return outputs(
            "height",
            "width",
            "num_frames",
            "frame_rate",
            "num_inference_steps",
            "sigmas",
            "skip_initial_inference_steps",
            "skip_final_inference_steps",
            "num_videos_per_prompt",
            "guidance_scale",
            "guidance",
            "decode_timestep",
            "decode_noise_scale",
            "tone_map_compression",
            "prompt",
            "batch_size",
            "dtype",
        )

    @torch.no_grad()
    def __call__(self, pipeline: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Run the block.

        Raises:
            InputError: If an argument can't be used.
        """
        block = self.get_block_state(state)
        steps = steps_of(pipeline)
        changes = texts_given(block)
        if block.prompt is None and block.prompt_embeds is None:
            changes["prompt"] = ""  # someone else's block makes the features
        if block.preset == "none":
            changes["preset"] = None
        request = steps._prepared(request_of(steps, block, fill=False, **changes))
        check_one_structure(steps._given(request))
        block.batch_size, block.dtype = request.num_prompts, steps.transformer.dtype
        for output in self.intermediate_outputs:
            if output.name in DEFAULTS and (output.name != "prompt" or block.prompt is not None):
                setattr(block, output.name, getattr(request, output.name))
        self.set_block_state(state, block)
        return pipeline, state


class LTXConditionTimestepsStep(ModularPipelineBlocks):
    """The noise levels of the call."""

    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        """What the block does."""
        return "Sets the scheduler's noise levels, without the steps that are left out at either end."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """What it reads and sets."""
        return components("scheduler", "vae")

    @property
    def inputs(self) -> list[InputParam]:
        """What it takes."""
        return inputs(
            "num_inference_steps",
            "timesteps",
            "sigmas",
            "skip_initial_inference_steps",
            "skip_final_inference_steps",
            "denoise_strength",
            "height",
            "width",
            "num_frames",
        )

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """What it adds to the state."""
        return outputs("noise_levels")

    @torch.no_grad()
    def __call__(self, pipeline: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Run the block.

        Raises:
            InputError: If the numbers can't be a schedule, or no step is left.
        """
        block = self.get_block_state(state)
        steps = steps_of(pipeline)
        request = request_of(steps, block)
        steps._set_levels(request, request.latent_size(steps.ratios), pipeline._execution_device)
        block.noise_levels = torch.tensor(steps._levels())
        self.set_block_state(state, block)
        return pipeline, state


class LTXConditionPrepareLatentsStep(ModularPipelineBlocks):
    """The tokens at the first noise level."""

    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        """What the block does."""
        return (
            "Draws the noise, mixes it with what the video starts from, if anything, and lays the conditions on the "
            "tokens. The scheduler's noise levels must be set."
        )

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """What it runs and reads."""
        return components("transformer", "vae", "scheduler")

    @property
    def inputs(self) -> list[InputParam]:
        """What it takes."""
        return inputs(
            "encoded_conditions",
            "height",
            "width",
            "num_frames",
            "frame_rate",
            "num_videos_per_prompt",
            "generator",
            "latents",
            "initial_video",
            "initial_latents",
            "denoise_strength",
            "strength_rule",
            "batch_size",
        )

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """What it adds to the state."""
        return outputs("token_state")

    @torch.no_grad()
    def __call__(self, pipeline: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Run the block."""
        block = self.get_block_state(state)
        steps = steps_of(pipeline)
        steps.encoded_conditions = block.encoded_conditions or ()
        request = request_of(steps, block, **placeholders(block.batch_size))
        if request.latents is not None and request.latents.ndim == 5:
            request = request.replaced(latents=pack_latents(request.latents))
        size = request.latent_size(steps.ratios)
        block.token_state = steps._initial_state(request, size, pipeline._execution_device)
        self.set_block_state(state, block)
        return pipeline, state
