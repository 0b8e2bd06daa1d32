"""The only place that writes to Diffusers' registries, so that its machinery treats our classes as its own.

- `LOADABLE_CLASSES`: pipelines record our components as library "ltx_diffusers" and find them there again; without
  it the full module path would be written, and moving a file would break saved models.
- Names in `diffusers` itself: there `AutoModel` looks up the class of a component that was saved alone.
- `TransformerBlockRegistry`, `AttentionProcessorRegistry`: step caches and layer skipping know what a block and an
  attention processor return.
- Annotations of Diffusers' LTX pipelines: their `from_pipe` takes over components of exactly the annotated types, so
  it would drop ours.
"""

from __future__ import annotations

import functools
from typing import get_type_hints

LIBRARY = "ltx_diffusers"

LOADABLE = {
    base: ["save_pretrained", "from_pretrained"]
    for base in ("ModelMixin", "SchedulerMixin", "DiffusionPipeline")
}
"""Base classes, looked up on our package by the loader, and the methods that save and load them."""

DIFFUSERS_PIPELINES = (
    "LTXPipeline",
    "LTXImageToVideoPipeline",
    "LTXConditionPipeline",
    "LTXI2VLongMultiPromptPipeline",
    "LTXLatentUpsamplePipeline",
)
"""Diffusers' pipelines that our components can serve in."""


@functools.cache
def register() -> None:
    """Tell Diffusers about our classes. Called when a public class is first used; later calls do nothing."""
    import diffusers
    from diffusers.hooks._helpers import (
        AttentionProcessorMetadata,
        AttentionProcessorRegistry,
        TransformerBlockMetadata,
        TransformerBlockRegistry,
    )
    from diffusers.pipelines import pipeline_loading_utils

    from .models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
    from .models.transformers.attention_ltx import LTXAttnProcessor
    from .models.transformers.block_ltx import LTXTransformerBlock
    from .models.transformers.transformer_ltx import LTXTransformer3DModel
    from .models.upsamplers.latent_upsampler_ltx import LTXLatentUpsampler
    from .schedulers.flow_match import LTXFlowMatchScheduler

    for component in (AutoencoderKLLTX, LTXTransformer3DModel, LTXLatentUpsampler, LTXFlowMatchScheduler):
        if not hasattr(diffusers, component.__name__):
            setattr(diffusers, component.__name__, component)
    pipeline_loading_utils.LOADABLE_CLASSES[LIBRARY] = LOADABLE
    pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(LOADABLE)
    TransformerBlockRegistry.register(
        LTXTransformerBlock,
        TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
    )
    AttentionProcessorRegistry.register(
        LTXAttnProcessor, AttentionProcessorMetadata(skip_processor_output_fn=_skipped_attention)
    )


@functools.cache
def register_pipelines() -> None:
    """Let `from_pipe` of Diffusers' LTX pipelines take over our components. Called when our pipelines are imported.

    Apart from `register`, because it imports those pipelines, and transformers with them.
    """
    from diffusers.pipelines import ltx

    from .models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
    from .models.transformers.transformer_ltx import LTXTransformer3DModel
    from .models.upsamplers.latent_upsampler_ltx import LTXLatentUpsampler

    own_classes = {
        "transformer": LTXTransformer3DModel,
        "vae": AutoencoderKLLTX,
        "latent_upsampler": LTXLatentUpsampler,
    }
    for name in DIFFUSERS_PIPELINES:
        init = getattr(ltx, name).__init__
        known = get_type_hints(init)
        for component, own in own_classes.items():
            if component in known:
                init.__annotations__[component] = known[component] | own


def _skipped_attention(attn: object, hidden_states: object, *args: object, **kwargs: object) -> object:
    """What a skipped attention gives: its input."""
    return hidden_states
