"""The same small transformer trained on each latent space: its loss curve, and what the judge sees in its videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx_diffusers import AutoencoderKLLTX, LTXPipeline
from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.evaluation.judge import ShapesJudge
from ltx_diffusers.evaluation.latent_report import as_frames, as_model_input
from ltx_diffusers.evaluation.shapes import evaluate_shapes
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.training.config import load_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.transformer import TransformerTask, TransformerTrainConfig

from ..run_logs import loss_curves
from .arms import HERE

CONFIG = HERE / "transformer.yaml"
NUM_PROMPTS = 60


def train_and_judge(vae: Path, folder: Path, seed: int, extra: list[str]) -> dict[str, Any]:
    """Train the transformer on a VAE's latents and let the judge look at videos of held-out prompts.

    Args:
        vae: Folder of the VAE.
        folder: Of the run.
        seed: Of weights, batches and draws.
        extra: Further overrides of the config.

    Returns:
        `curve`: steps and training losses; `judge`: share of the videos that are right, by property; `reconstructed`:
        the same of true clips that only went through the VAE, which no transformer can do better than.
    """
    config = load_config(
        TransformerTrainConfig, CONFIG, [f"vae={vae}", f"output={folder}", f"seed={seed}", *extra]
    )
    if not (folder / "model").exists():
        resume = any((folder / "checkpoints").glob("step-????????"))
        Trainer(TransformerTask(config), config, resume=resume).train()
    pipeline = LTXPipeline.from_pretrained(folder / "model", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    size = VideoSize(config.data.num_frames, config.data.height, config.data.width)
    report = evaluate_shapes(pipeline, num_prompts=NUM_PROMPTS, parts=("text-to-video",), size=size)
    return {
        "curve": loss_curves(folder)["training_loss"],
        "judge": {figure["name"]: figure["value"] for figure in report["figures"]},
        "reconstructed": judge_reconstructions(vae, size, config.data.options),
    }


@torch.no_grad()
def judge_reconstructions(folder: Path, size: VideoSize, options: dict[str, Any]) -> dict[str, float]:
    """Share of held-out clips that are still right when a VAE has encoded and decoded them, by property."""
    vae = AutoencoderKLLTX.from_pretrained(folder).eval()
    clips = ShapeClips(*size, split="held-out", **options)
    judge = ShapesJudge()
    found = []
    for number in range(NUM_PROMPTS):
        clip = clips[number]
        latents = vae.encode(as_model_input(clip.frames)).latent_dist.mode()
        found.append(judge.read(as_frames(vae.decode(latents).sample)).right(clip.spec))
    return {name: float(np.mean([right[name] for right in found])) for name in found[0]}
