"""Adapters that PEFT made, the oracle for everything that reads, writes, fuses or merges LoRAs."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from diffusers import LTXVideoTransformer3DModel
from peft import LoraConfig
from tiny import tiny_components, transformer_config
from torch import Tensor, nn

from ltx_diffusers import LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.conversion.lora.files import write_lora
from ltx_diffusers.conversion.lora.layers import Lora
from ltx_diffusers.conversion.lora.peft_model import extract_adapter, lora_modules

ALL_LAYERS = [
    "proj_in", "proj_out", "linear_1", "linear_2", "time_embed.linear",
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2",
]  # fmt: skip
"""PEFT's targets for every linear layer of the transformer, with and without official names of their own."""

KINDS = {
    "alpha": {"r": 2, "lora_alpha": 8},
    "patterns": {
        "r": 2,
        "lora_alpha": 3,
        "rank_pattern": {"proj_in": 4, "attn1.to_q": 3},
        "alpha_pattern": {"proj_in": 1, "transformer_blocks.1.ff.net.2": 5},
    },
    "rslora": {"r": 3, "lora_alpha": 5, "use_rslora": True},
    "dora": {"r": 2, "lora_alpha": 8, "use_dora": True},
    "bias": {"r": 4, "lora_alpha": 2, "lora_bias": True},
}
"""Settings that a format may lose."""


def base_transformer() -> LTXTransformer3DModel:
    """A tiny transformer, always with the same weights."""
    torch.manual_seed(0)
    return LTXTransformer3DModel(**transformer_config(), causal_temporal_positioning=False).eval()


def in_tree_transformer() -> LTXVideoTransformer3DModel:
    """Diffusers' class with the weights of `base_transformer`."""
    model = LTXVideoTransformer3DModel(**transformer_config()).eval()
    model.load_state_dict(base_transformer().state_dict())
    return model


@functools.cache
def _other_components() -> dict:
    return {name: part for name, part in tiny_components().items() if name != "transformer"}


def pipeline(cls: type = LTXPipeline, transformer: nn.Module | None = None) -> LTXPipeline:
    """A tiny pipeline with `base_transformer`; its other components are shared."""
    return cls(**_other_components(), transformer=transformer or base_transformer())


def add_adapter(
    model: nn.Module, kind: str = "alpha", name: str = "default", seed: int = 1, **changes: object
) -> None:
    """Give a transformer an adapter of one of the `KINDS`, with random matrices, magnitudes and biases."""
    torch.manual_seed(seed)
    settings = {"target_modules": ALL_LAYERS, "init_lora_weights": False, **KINDS[kind], **changes}
    model.add_adapter(LoraConfig(**settings), name)
    for _, module in lora_modules(model, name):
        if name in module.lora_magnitude_vector:
            # They start at the norms of the changed weights, where DoRA does nothing.
            module.lora_magnitude_vector[name].weight.data.mul_(torch.rand(module.out_features) + 0.5)
        if module.lora_B[name].bias is not None:
            module.lora_B[name].bias.data.normal_()


def adapted_transformer(kind: str = "alpha", **options: object) -> LTXTransformer3DModel:
    """`base_transformer` with an adapter."""
    model = base_transformer()
    add_adapter(model, kind, **options)
    return model


def some_lora(kind: str = "alpha", **options: object) -> Lora:
    """The LoRA of `adapted_transformer`."""
    return extract_adapter(adapted_transformer(kind, **options))


def saved(folder: Path, kind: str = "alpha", **options: object) -> tuple[Path, Tensor]:
    """A LoRA's file, and what a transformer gives with it."""
    model = adapted_transformer(kind, **options)
    return write_lora(extract_adapter(model), folder), output(model)


@torch.no_grad()
def output(model: nn.Module) -> Tensor:
    """What a transformer gives for fixed inputs, (2, 4, 8)."""
    generator = torch.Generator().manual_seed(3)
    return model(
        hidden_states=torch.randn(2, 4, 8, generator=generator),
        encoder_hidden_states=torch.randn(2, 5, 16, generator=generator),
        timestep=torch.tensor([100.0, 700.0]),
        encoder_attention_mask=torch.ones(2, 5),
        num_frames=1,
        height=2,
        width=2,
        rope_interpolation_scale=(8 / 25, 32, 32),
        return_dict=False,
    )[0]


def largest_error(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, over the largest expected number."""
    return ((got - expected).abs().max() / expected.abs().max()).item()
