"""All blocks in a row: what `LTXConditionPipeline` does."""

from __future__ import annotations

from diffusers.modular_pipelines import SequentialPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import OutputParam

from .before_denoise import (
    LTXConditionPrepareLatentsStep,
    LTXConditionSettingsStep,
    LTXConditionTimestepsStep,
)
from .decoders import LTXConditionDecodeStep
from .denoise import LTXConditionDenoiseStep
from .encoders import LTXAutoConditionEncoderStep, LTXConditionTextStep
from .parameters import MODEL_NAME, outputs


class LTXConditionBlocks(SequentialPipelineBlocks):
    """The blocks of a whole call: settings, text, noise levels, conditions, latents, denoising, decoding."""

    model_name = MODEL_NAME
    block_classes = [  # noqa: RUF012 (as Diffusers has it)
        LTXConditionSettingsStep,
        LTXConditionTextStep,
        LTXConditionTimestepsStep,
        LTXAutoConditionEncoderStep,
        LTXConditionPrepareLatentsStep,
        LTXConditionDenoiseStep,
        LTXConditionDecodeStep,
    ]
    block_names = [  # noqa: RUF012
        "settings",
        "text_encoder",
        "set_timesteps",
        "condition_encoder",
        "prepare_latents",
        "denoise",
        "decode",
    ]
    _workflow_map = {  # noqa: RUF012
        "text2video": {"prompt": True},
        "image2video": {"image": True, "prompt": True},
        "conditions2video": {"conditions": True, "prompt": True},
    }

    @property
    def description(self) -> str:
        """What the blocks do together."""
        return (
            "Videos from prompts and any mixture of conditions, as by LTXConditionPipeline: text to video, image to "
            "video, keyframes, extension, inpainting, references, video to video."
        )

    @property
    def outputs(self) -> list[OutputParam]:
        """What they are run for."""
        return outputs("videos")
