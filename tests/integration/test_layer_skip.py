"""Diffusers' layer skipping, which its skip-layer guidance uses, on our transformer."""

from __future__ import annotations

import copy

import torch
from diffusers import LayerSkipConfig
from diffusers.hooks import apply_layer_skip
from helpers.transformers import TINY, on_grid, relative_error, tiny_inputs

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.models.transformers.attention_ltx import LTXAttnProcessor


def test_layer_skip_skips_self_attention() -> None:
    """A skipped attention hands on its input, cross-attention stays; skipped scores give the values."""
    model = LTXTransformer3DModel(**TINY, causal_temporal_positioning=True).eval()
    inputs = {**tiny_inputs("per token"), **on_grid()}
    expected = model(**inputs)[0]
    outputs = {}
    for name, config in {
        "attention": {"skip_attention": True},
        "scores": {"skip_attention": False, "skip_attention_scores": True},
    }.items():
        skipped = copy.deepcopy(model)
        apply_layer_skip(
            skipped, LayerSkipConfig(indices=[1], fqn="transformer_blocks", skip_ff=False, **config)
        )
        outputs[name] = skipped(**inputs)[0]

    class HandOn(LTXAttnProcessor):
        def __call__(self, attn, hidden_states, *args, **kwargs) -> torch.Tensor:
            return hidden_states

    class Values(LTXAttnProcessor):
        def __call__(self, attn, hidden_states, *args, **kwargs) -> torch.Tensor:
            return attn.to_out[0](attn.to_v(hidden_states))

    for name, processor in (("attention", HandOn()), ("scores", Values())):
        by_hand = copy.deepcopy(model)
        by_hand.transformer_blocks[1].attn1.set_processor(processor)
        assert relative_error(outputs[name], by_hand(**inputs)[0]) < 1e-6
        assert relative_error(outputs[name], expected) > 1e-3
