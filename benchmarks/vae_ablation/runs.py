"""Training and measuring of all arms that aren't done yet, one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltx_diffusers.training.clips import open_clips
from ltx_diffusers.training.config import load_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.vae import VAETask, VAETrainConfig

from .arms import BASE, overrides
from .generation import train_and_judge
from .measuring import NUM_CLIPS, measure_vae
from .real_clips import make_real_clips

REPORT, GENERATION = "report.json", "generation.json"


def run_folder(output: Path, world: str, arm: str, seed: int) -> Path:
    """Where a run's checkpoints, model and measures are."""
    return output / world / f"{arm}-{seed}"


def train_and_measure(
    output: Path, worlds: Sequence[str], arms: Sequence[str], seeds: Sequence[int], extra: Sequence[str] = ()
) -> None:
    """Train every arm with every seed in every world, and write what is measured into each run's folder.

    What is finished is left alone, what was begun is resumed. A seed decides weights, clips and draws; all arms of a
    seed start from the same weights where they have the same shapes, and see the same clips.

    Args:
        output: Folder of all runs.
        worlds: Of `WORLDS`.
        arms: Of `ARMS`.
        seeds: 0, 1, ...
        extra: Further overrides of the config, such as fewer steps to try it all out.
    """
    real = make_real_clips(output / "real-clips") if "real" in worlds else output
    for seed in seeds:
        for world in worlds:
            for arm in arms:
                folder = run_folder(output, world, arm, seed)
                if not (folder / REPORT).exists():
                    print(f"{world}, {arm}, seed {seed}", flush=True)
                    settings = [*overrides(arm, world, real), f"output={folder}", f"seed={seed}", *extra]
                    _run(load_config(VAETrainConfig, BASE, settings), folder)


def generate_with_each(
    output: Path, arms: Sequence[str], seeds: Sequence[int], extra: Sequence[str] = ()
) -> None:
    """Train the same transformer on the latents of every finished arm on shapes, and judge its videos."""
    for seed in seeds:
        for arm in arms:
            folder = run_folder(output, "shapes", arm, seed)
            if not (folder / GENERATION).exists():
                print(f"transformer on {arm}, seed {seed}", flush=True)
                report = train_and_judge(folder / "model", folder / "transformer", seed, list(extra))
                write_json(folder / GENERATION, report)


def _run(config: VAETrainConfig, folder: Path) -> None:
    if not (folder / "model").exists():
        resume = any((folder / "checkpoints").glob("step-????????"))
        Trainer(VAETask(config), config, resume=resume).train()
    held_out = open_clips(config.data, "held-out")
    clips = [held_out[number].frames for number in range(NUM_CLIPS)]
    report = measure_vae(folder / "model", clips)
    write_json(folder / REPORT, report)


def write_json(path: Path, values: dict[str, Any], indent: int | None = None) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=indent))
    partial.replace(path)
