"""A tiny random pipeline on disk, for the commands."""

from __future__ import annotations

from pathlib import Path

from tiny import tiny_components

from ltx_diffusers import LTXPipeline

DEFAULTS = {"height": 64, "width": 96, "num_frames": 9, "frame_rate": 12}
STEPS, GUIDANCE = 3, 2.0


def save_tiny_pipeline(folder: Path) -> Path:
    """Save a pipeline with random weights whose components state their defaults."""
    parts = tiny_components(timestep_conditioning=True, causal=True)
    parts["transformer"].register_to_config(**{f"default_{name}": value for name, value in DEFAULTS.items()})
    parts["scheduler"].register_to_config(default_num_inference_steps=STEPS, default_guidance_scale=GUIDANCE)
    LTXPipeline(**parts).save_pretrained(folder)
    return folder
