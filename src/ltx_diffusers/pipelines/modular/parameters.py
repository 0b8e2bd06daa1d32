"""The inputs and components of the blocks, each described once.

Names, defaults and types of inputs are those of `LTXConditionPipeline.__call__`.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, get_type_hints

import torch
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam
from torch import Tensor
from transformers import T5EncoderModel, T5TokenizerFast

from ...denoising.conditions import Condition
from ...denoising.state import TokenState
from ...models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ...models.transformers.transformer_ltx import LTXTransformer3DModel
from ...schedulers.flow_match import LTXFlowMatchScheduler
from ..pipeline_ltx_condition import LTXConditionPipeline

MODEL_NAME = "ltx"
"""Diffusers' name for the family, so that blocks of both kinds stand in one pipeline."""

DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(LTXConditionPipeline.__call__).parameters.items()
    if name != "self"
}
"""Arguments of a call and their defaults."""

DESCRIPTIONS = {
    "conditions": "Pictures, clips, regions and references: one, a list for all prompts, or a list for each prompt.",
    "image": "Pictures, as a short form of conditions.",
    "video": "A clip (8k + 1 frames), as a short form of one condition.",
    "frame_index": "Frames where `image` or `video` are given; -1 is the last one.",
    "strength": "How strongly `image` or `video` are given, 0 to 1.",
    "denoise_strength": "Share of the steps that is run, the last ones, from something to start from.",
    "prompt": "What the videos show: a text or a list of texts.",
    "negative_prompt": "What they don't: one text, or one for each prompt.",
    "height": "Rows of the videos, a multiple of 32; the model's default if left out.",
    "width": "Columns of the videos, a multiple of 32; the model's default if left out.",
    "num_frames": "Frames of the videos, 8k + 1; the model's default if left out.",
    "frame_rate": "Frames per second; the model's default if left out.",
    "num_inference_steps": "Steps of the schedule; the preset's or the model's default if left out.",
    "timesteps": "A schedule of timesteps in [0, 1000], in place of a number of steps.",
    "sigmas": "A schedule of noise levels in [0, 1], in place of a number of steps.",
    "guidance_scale": "Classifier-free guidance; 1 for none.",
    "guidance_rescale": "Share of the guided prediction brought to the prompt's own deviation, 0 to 1.",
    "guidance": "A guidance in place of `guidance_scale` and `guidance_rescale`, ours or a guider of Diffusers'.",
    "image_cond_noise_scale": "Noise on given tokens of full strength before each step.",
    "num_videos_per_prompt": "Videos for each prompt.",
    "generator": "Source of all noise: one, or a list with one for each video.",
    "latents": "Noise as tokens (B, L, C), or latents (B, C, F, H, W); clean with a `denoise_strength` below 1.",
    "prompt_embeds": "Features of the prompts (B, T, D).",
    "prompt_attention_mask": "Their mask (B, T).",
    "negative_prompt_embeds": "Features of the negative prompts (B, T, D).",
    "negative_prompt_attention_mask": "Their mask (B, T).",
    "decode_timestep": "Noise level that the decoder is told, one, or one for each prompt or video.",
    "decode_noise_scale": "Share of noise mixed in before decoding, one, or one for each prompt or video.",
    "output_type": "'pil', 'np' (B, F, H, W, 3), 'pt' (B, F, 3, H, W) or 'latent'.",
    "attention_kwargs": "Passed on to the transformer, such as the scale of LoRAs.",
    "max_sequence_length": "Tokens that texts are padded or cut to.",
    "initial_video": "A video of the same size and length to start from.",
    "initial_latents": "The same as normalised latents (B or 1, C, F, H, W).",
    "strength_rule": "What strengths between 0 and 1 mean: 'official' or 'proportional'.",
    "sampler": "Name of a sampler, or an object; the scheduler's own steps if left out.",
    "tone_map_compression": "Presses down large latents before decoding, 0 to 1.",
    "skip_initial_inference_steps": "Steps of the schedule left out at its start.",
    "skip_final_inference_steps": "Steps of the schedule left out at its end.",
    "prompt_enhancer": "Writes the prompts out first: a function of prompts and pictures.",
    "preset": "A preset, its name, 'auto' for that of the loaded model, or 'none'.",
}

COMPONENTS = {
    "text_encoder": T5EncoderModel,
    "tokenizer": T5TokenizerFast,
    "transformer": LTXTransformer3DModel,
    "vae": AutoencoderKLLTX,
    "scheduler": LTXFlowMatchScheduler,
}

INTERMEDIATE = {
    "batch_size": (int, "Prompts of the call."),
    "dtype": (torch.dtype, "Precision of the transformer."),
    "noise_levels": (Tensor, "Noise level of each step (steps,) in [0, 1]."),
    "encoded_conditions": (list[Condition], "Conditions with their latents, for the token state."),
    "token_state": (
        TokenState,
        "Tokens of the videos and of their conditions, with all that is known of them.",
    ),
    "videos": (list, "The videos, in the form of `output_type`."),
}
"""What blocks hand on that isn't an argument of the pipeline."""


@functools.cache
def _types() -> dict[str, Any]:
    return get_type_hints(LTXConditionPipeline.__call__)


def inputs(*names: str, required: tuple[str, ...] = ()) -> list[InputParam]:
    """Inputs of a block: arguments of the pipeline, or what earlier blocks hand on.

    Args:
        *names: Of both kinds.
        required: More names, of inputs without which the block can't run.
    """
    described = []
    for name in (*required, *names):
        if name in INTERMEDIATE:
            kind, text = INTERMEDIATE[name]
            default = 1 if name == "batch_size" else None
        else:
            kind, text, default = _types()[name], DESCRIPTIONS[name], DEFAULTS[name]
        described.append(InputParam(name, kind, default, name in required, text))
    return described


def outputs(*names: str) -> list[OutputParam]:
    """Outputs of a block, by their names."""
    described = []
    for name in names:
        kind, text = INTERMEDIATE[name] if name in INTERMEDIATE else (_types()[name], DESCRIPTIONS[name])
        described.append(OutputParam(name, kind, text))
    return described


def components(*names: str) -> list[ComponentSpec]:
    """Components of a block, by their names. Diffusers' classes serve as well as ours."""
    return [ComponentSpec(name, COMPONENTS[name]) for name in names]
