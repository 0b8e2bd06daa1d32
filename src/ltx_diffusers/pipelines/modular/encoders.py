"""Blocks that encode what the caller gives: texts, pictures and clips."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.modular_pipelines import ConditionalPipelineBlocks, ModularPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam

from ..pipeline_ltx_condition import LTXConditionPipeline
from .core import check_one_structure, placeholders, request_of, steps_of, texts_given
from .parameters import MODEL_NAME, components, inputs, outputs


class LTXConditionTextStep(ModularPipelineBlocks):
    """Prompts to features, one row for each prompt."""

    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        """What the block does."""
        return (
            "Encodes the prompts, and with guidance the negative prompts, by the text encoder; a prompt that is given "
            "wins over features."
        )

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """What it runs."""
        return components("text_encoder", "tokenizer")

    @property
    def inputs(self) -> list[InputParam]:
        """What it takes."""
        return inputs(
            "prompt",
            "negative_prompt",
            "max_sequence_length",
            "prompt_embeds",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
            "guidance_scale",
            "guidance",
        )

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """What it adds to the state."""
        features = ("prompt_embeds", "prompt_attention_mask")
        return outputs(*features, *(f"negative_{name}" for name in features), "batch_size")

    @torch.no_grad()
    def __call__(self, pipeline: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Run the block.

        Raises:
            InputError: If there is nothing to encode, or features lack their mask.
        """
        block = self.get_block_state(state)
        steps = steps_of(pipeline)
        request = request_of(steps, block, **texts_given(block))
        model = pipeline.text_encoder if steps.transformer is None else steps.transformer
        (
            block.prompt_embeds,
            block.prompt_attention_mask,
            block.negative_prompt_embeds,
            block.negative_prompt_attention_mask,
        ) = steps.encode_prompt(
            request.prompt,
            request.negative_prompt,
            request.guided,
            1,
            request.prompt_embeds,
            request.negative_prompt_embeds,
            request.prompt_attention_mask,
            request.negative_prompt_attention_mask,
            request.max_sequence_length,
            pipeline._execution_device,
            None if model is None else model.dtype,
        )
        block.batch_size = block.prompt_embeds.shape[0]
        self.set_block_state(state, block)
        return pipeline, state


class LTXConditionEncoderStep(ModularPipelineBlocks):
    """Pictures, clips, regions and references to conditions of the denoising core."""

    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        """What the block does."""
        return "Checks the conditions against the video's size and encodes them by the VAE."

    @property
    def expected_components(self) -> list[ComponentSpec]:
        """What it runs."""
        return components("vae")

    @property
    def inputs(self) -> list[InputParam]:
        """What it takes."""
        return inputs(
            "conditions",
            "image",
            "video",
            "frame_index",
            "strength",
            "height",
            "width",
            "num_frames",
            "num_videos_per_prompt",
            "generator",
            "batch_size",
        )

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        """What it adds to the state."""
        return outputs("encoded_conditions")

    @torch.no_grad()
    def __call__(self, pipeline: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        """Run the block.

        Raises:
            InputError: If a condition can't be used.
        """
        block = self.get_block_state(state)
        steps = steps_of(pipeline)
        request = request_of(steps, block, **placeholders(block.batch_size))
        check_one_structure(steps._given(request))
        device = pipeline._execution_device
        block.encoded_conditions = LTXConditionPipeline._conditions(steps, request, None, device)
        self.set_block_state(state, block)
        return pipeline, state


class LTXAutoConditionEncoderStep(ConditionalPipelineBlocks):
    """The conditions, if any are given."""

    block_classes = [LTXConditionEncoderStep]  # noqa: RUF012 (as Diffusers has it)
    block_names = ["encode"]  # noqa: RUF012
    block_trigger_inputs = ["conditions", "image", "video"]  # noqa: RUF012
    default_block_name = None

    @property
    def description(self) -> str:
        """What the block does."""
        return "Encodes `conditions`, `image` or `video`; without any of them it is skipped."

    def select_block(self, conditions: Any = None, image: Any = None, video: Any = None) -> str | None:
        """The block to run, None for none."""
        return None if all(given is None for given in (conditions, image, video)) else "encode"
