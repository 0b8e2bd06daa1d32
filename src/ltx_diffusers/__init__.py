"""The whole LTX-Video stack as one library in the style of Diffusers.

Importing this package is light: torch and Diffusers are imported when a class is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "AutoencoderKLLTX": "ltx_diffusers.models.autoencoders.autoencoder_kl_ltx",
    "LTXConditionBlocks": "ltx_diffusers.pipelines.modular.assembled",
    "LTXConditionModularPipeline": "ltx_diffusers.pipelines.modular.pipeline",
    "LTXConditionPipeline": "ltx_diffusers.pipelines.pipeline_ltx_condition",
    "LTXEditPipeline": "ltx_diffusers.pipelines.pipeline_ltx_edit",
    "LTXFlowMatchScheduler": "ltx_diffusers.schedulers.flow_match",
    "LTXImageToVideoPipeline": "ltx_diffusers.pipelines.pipeline_ltx_image2video",
    "LTXLatentUpsampler": "ltx_diffusers.models.upsamplers.latent_upsampler_ltx",
    "LTXLatentUpsamplePipeline": "ltx_diffusers.pipelines.pipeline_ltx_latent_upsample",
    "LTXLongVideoPipeline": "ltx_diffusers.pipelines.pipeline_ltx_long_video",
    "LTXPipeline": "ltx_diffusers.pipelines.pipeline_ltx",
    "LTXTransformer3DModel": "ltx_diffusers.models.transformers.transformer_ltx",
    "PromptEnhancer": "ltx_diffusers.pipelines.prompt_enhancement",
    "PatchDiscriminator2D": "ltx_diffusers.models.discriminators.patch",
    "PatchDiscriminator3D": "ltx_diffusers.models.discriminators.patch",
    "ReferenceVideo": "ltx_diffusers.pipelines.media",
    "RegionOfVideo": "ltx_diffusers.pipelines.media",
    "VideoCondition": "ltx_diffusers.pipelines.media",
    "prepare_clip": "ltx_diffusers.pipelines.preparation",
    "prepare_image": "ltx_diffusers.pipelines.preparation",
    # Diffusers' loader looks these up on the package of every component that it loads.
    "DiffusionPipeline": "diffusers.pipelines.pipeline_utils",
    "ModelMixin": "diffusers.models.modeling_utils",
    "SchedulerMixin": "diffusers.schedulers.scheduling_utils",
}
"""Public names and the modules that they come from."""

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin as ModelMixin
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline as DiffusionPipeline
    from diffusers.schedulers.scheduling_utils import SchedulerMixin as SchedulerMixin

    from .models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX as AutoencoderKLLTX
    from .models.discriminators.patch import PatchDiscriminator2D as PatchDiscriminator2D
    from .models.discriminators.patch import PatchDiscriminator3D as PatchDiscriminator3D
    from .models.transformers.transformer_ltx import LTXTransformer3DModel as LTXTransformer3DModel
    from .models.upsamplers.latent_upsampler_ltx import LTXLatentUpsampler as LTXLatentUpsampler
    from .pipelines.media import ReferenceVideo as ReferenceVideo
    from .pipelines.media import RegionOfVideo as RegionOfVideo
    from .pipelines.media import VideoCondition as VideoCondition
    from .pipelines.modular.assembled import LTXConditionBlocks as LTXConditionBlocks
    from .pipelines.modular.pipeline import LTXConditionModularPipeline as LTXConditionModularPipeline
    from .pipelines.pipeline_ltx import LTXPipeline as LTXPipeline
    from .pipelines.pipeline_ltx_condition import LTXConditionPipeline as LTXConditionPipeline
    from .pipelines.pipeline_ltx_edit import LTXEditPipeline as LTXEditPipeline
    from .pipelines.pipeline_ltx_image2video import LTXImageToVideoPipeline as LTXImageToVideoPipeline
    from .pipelines.pipeline_ltx_latent_upsample import (
        LTXLatentUpsamplePipeline as LTXLatentUpsamplePipeline,
    )
    from .pipelines.pipeline_ltx_long_video import LTXLongVideoPipeline as LTXLongVideoPipeline
    from .pipelines.preparation import prepare_clip as prepare_clip
    from .pipelines.preparation import prepare_image as prepare_image
    from .pipelines.prompt_enhancement import PromptEnhancer as PromptEnhancer
    from .schedulers.flow_match import LTXFlowMatchScheduler as LTXFlowMatchScheduler


def __getattr__(name: str) -> object:
    """Import a public class when it is first used, and tell Diffusers about our classes before that."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .integration import register

    register()
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
