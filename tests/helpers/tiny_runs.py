"""Configs of training runs that take a second."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

TINY_VAE = {
    "block_out_channels": [8, 16, 16, 16],
    "down_block_types": ["LTXVideo095DownBlock3D"] * 3,
    "downsample_type": ["spatiotemporal"] * 3,
    "layers_per_block": [0, 0, 0, 1],
    "spatio_temporal_scaling": [True] * 3,
    "decoder_block_out_channels": [8, 8, 16],
    "decoder_layers_per_block": [1, 0, 0, 0],
    "decoder_spatio_temporal_scaling": [True] * 3,
    "decoder_inject_noise": [False] * 4,
    "upsample_residual": [True] * 3,
    "upsample_factor": [1, 1, 2],
    "timestep_conditioning": True,
    "latent_channels": 8,
}


def vae_run(output: Path, **changes: object) -> dict:
    """Settings of a run of six steps: frames, then clips."""
    return {
        "output": str(output),
        "data": {"height": 32, "width": 32, "num_frames": 9},
        "model": TINY_VAE,
        "optimizer": {"warmup_steps": 2},
        "stages": [
            {"steps": 3, "num_frames": 1, "batch_size": 2, "foreground_weight": 2.0},
            {"steps": 3, "num_frames": 9, "batch_size": 2},
        ],
        "validate_every": 0,
        "checkpoint_every": 2,
        "log_every": 1,
        "statistics_clips": 3,
        "validation_clips": 1,
    } | changes


def transformer_run(output: Path, vae: Path, **changes: object) -> dict:
    """Settings of a run of four steps."""
    return {
        "output": str(output),
        "vae": str(vae),
        "data": {"height": 32, "width": 64, "num_frames": 9},
        "model": {
            "in_channels": 8,
            "out_channels": 8,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "cross_attention_dim": 24,
            "num_layers": 1,
            "caption_channels": 16,
            "causal_temporal_positioning": True,
        },
        "text_encoder": {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 16, "num_layers": 1},
        "scheduler": {"default_num_inference_steps": 2, "default_guidance_scale": 2.0},
        "optimizer": {"warmup_steps": 1},
        "steps": 4,
        "batch_size": 4,
        "cached_clips": 6,
        "validate_every": 0,
        "checkpoint_every": 2,
        "validation_prompts": 2,
    } | changes


def lora_run(output: Path, base: Path, **changes: object) -> dict:
    """Settings of a LoRA's run of four steps on a pipeline."""
    return {
        "output": str(output),
        "initial_weights": str(base),
        "adapter": {"rank": 2},
        "data": {"height": 32, "width": 64, "num_frames": 9},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "warmup_steps": 1},
        "ema_decay": 0.0,
        "steps": 4,
        "batch_size": 2,
        "cached_clips": 4,
        "validation_clips": 2,
        "validation_prompts": 2,
        "caption_prefix": "sks ",
        "validate_every": 0,
        "checkpoint_every": 2,
        "samples": {"num_inference_steps": 2},
    } | changes


def weights_in(folder: Path) -> dict[str, Tensor]:
    """All weights of a finished model, by folder, file and name."""
    return {
        f"{path.parent.name}/{path.name}/{name}": value
        for path in folder.rglob("*.safetensors")
        for name, value in load_file(path).items()
    }
