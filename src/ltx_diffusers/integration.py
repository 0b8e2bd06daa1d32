"""The only place that writes to Diffusers' registries, so that its machinery treats our classes as its own.

- `LOADABLE_CLASSES`: pipelines record our components as library "ltx_diffusers" and find them there again; without
  it the full module path would be written, and moving a file would break saved models.
- `TransformerBlockRegistry`, `AttentionProcessorRegistry`: step caches and layer skipping know what a block and an
  attention processor return.
"""

from __future__ import annotations

import functools

LIBRARY = "ltx_diffusers"

LOADABLE = {
    base: ["save_pretrained", "from_pretrained"]
    for base in ("ModelMixin", "SchedulerMixin", "DiffusionPipeline")
}
"""Base classes, looked up on our package by the loader, and the methods that save and load them."""


@functools.cache
def register() -> None:
    """Tell Diffusers about our classes. Called when a public class is first used; later calls do nothing."""
    from diffusers.hooks._helpers import (
        AttentionProcessorMetadata,
        AttentionProcessorRegistry,
        TransformerBlockMetadata,
        TransformerBlockRegistry,
    )
    from diffusers.pipelines import pipeline_loading_utils

    from .models.transformers.attention_ltx import LTXAttnProcessor
    from .models.transformers.block_ltx import LTXTransformerBlock

    pipeline_loading_utils.LOADABLE_CLASSES[LIBRARY] = LOADABLE
    pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(LOADABLE)
    TransformerBlockRegistry.register(
        LTXTransformerBlock,
        TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
    )
    AttentionProcessorRegistry.register(
        LTXAttnProcessor, AttentionProcessorMetadata(skip_processor_output_fn=_skipped_attention)
    )


def _skipped_attention(attn: object, hidden_states: object, *args: object, **kwargs: object) -> object:
    """What a skipped attention gives: its input."""
    return hidden_states
