"""Small transformers with random weights, and inputs for them."""

from __future__ import annotations

import torch

TINY = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "cross_attention_dim": 64,
    "num_layers": 3,
    "caption_channels": 32,
}
"""Width 64, so that RoPE leaves 64 % 6 = 4 channels over, as at the released widths."""

OFFICIAL = {
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "standardization_norm": "rms_norm",
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000,
}
"""What the official class must be told beside `TINY` to be the released architecture."""

GRID = (3, 2, 4)
"""Frames, rows and columns of tokens."""

FRAME_RATE = 25.0
SCALE = (8 / FRAME_RATE, 32, 32)
"""Diffusers' `rope_interpolation_scale`."""

MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
"""Of the second prompt only four of six tokens count."""

TIMESTEPS = {
    "per sample": torch.tensor([100.0, 700.0]),
    "column": torch.tensor([[100.0], [700.0]]),
    "per token": torch.linspace(0, 1000, 48).reshape(2, 24),
}


def tiny_inputs(timesteps: str = "per sample", mask: bool = True) -> dict:
    """Arguments for a call of a `TINY` transformer with two samples; they tell nothing about coordinates."""
    return {
        "hidden_states": torch.randn(2, 24, 8),
        "encoder_hidden_states": torch.randn(2, 6, 32),
        "timestep": TIMESTEPS[timesteps],
        "encoder_attention_mask": MASK if mask else None,
        "return_dict": False,
    }


def on_grid() -> dict:
    """Arguments that tell the coordinates of `GRID` in the way of Diffusers' pipelines."""
    return {
        **dict(zip(("num_frames", "height", "width"), GRID, strict=True)),
        "rope_interpolation_scale": SCALE,
    }


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    return ((got - expected).norm() / expected.norm()).item()
