"""Runs of a tiny VAE with every objective, both GANs and pictures and clips mixed."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from helpers.tiny_runs import vae_run

from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.vae import VAETask, VAETrainConfig

SMALL_3D = {"name": "patch-3d", "options": {"channels": 4, "num_layers": 2}}
SMALL_2D = {"name": "patch-2d", "options": {"channels": 4, "num_layers": 2}}
GAN = {
    "weight": 0.1,
    "start_step": 2,
    "options": {"discriminators": [SMALL_3D, SMALL_2D], "r1": 0.1, "lecam": 0.1},
}
EVERYTHING = {
    "l1": 1.0,
    "l2": 1.0,
    "kl": {"weight": 1e-3, "options": {"reduction": "pixels"}},
    "wavelet": {"weight": 0.5, "options": {"band_weights": {"HHH": 2.0}}},
    "random-features": {"weight": 0.1, "options": {"channels": [4, 4]}},
    "reconstruction-gan": GAN,
    "ordinary": GAN | {"name": "gan", "balance": {"kind": "constant"}, "start_step": 3},
    "local-correlation": 0.002,
    "latent-masking": {"options": {"ratios": [0.0, 0.5], "probabilities": [0.5, 0.5]}},
}
BUCKETS = [{"num_frames": 1, "batch_size": 4}, {"num_frames": 17, "batch_size": 2, "share": 2.0}]


def config_of(folder: Path, **changes: object) -> VAETrainConfig:
    """Settings of eight steps."""
    settings = {
        "objectives": EVERYTHING,
        "learned_scale": True,
        "data": {"height": 64, "width": 64, "num_frames": 17},
        "stages": [{"steps": 8, "buckets": BUCKETS}],
        "discriminator": {"start_step": 1, "optimizer": {"name": "adamw", "learning_rate": 0.01}},
    }
    return parse_config(VAETrainConfig, vae_run(folder, **(settings | changes)))


def trainer(folder: Path, *, resume: bool = False, **changes: object) -> Trainer:
    """The run, ready for its first step or that of its last checkpoint."""
    config = config_of(folder, **changes)
    return Trainer(VAETask(config), config, resume=resume)


def steps(run: Trainer, count: int) -> list[dict[str, float]]:
    """Take steps; the figures of each."""
    figures = []
    for _ in range(count):
        figures.append(run.train_step())
        run.step += 1
    return figures


def state_of(run: Trainer) -> list[dict[str, torch.Tensor]]:
    """Copies of what both sides of the game know."""
    sides = (run.task.module, run.adversary.module)
    return [copy.deepcopy(side.state_dict()) for side in sides]


def same(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> bool:
    """Whether two states are the same to the last bit."""
    return all(
        torch.equal(value, second[index][name])
        for index, side in enumerate(first)
        for name, value in side.items()
    )
