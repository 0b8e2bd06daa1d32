"""Transformers of three sizes, trained alike from scratch on moving-shapes: losses, and tokens per second.

All see the same clips, noise and levels, on the latents of the embedded model's VAE; only width and depth differ. Loss
is that of held-out clips, and also that of the training clips. Tokens per second are those of a whole training step
over the processor time of one thread. What is finished is left alone, so that an interrupted run can go on. From the
repository's root:

    python benchmarks/transformer_scaling.py --runs runs/scaling --output benchmarks/results --picture docs/assets
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from run_logs import loss_curves

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.training.config import load_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig

CONFIG = "configs/embedded/transformer.yaml"
SIZES = {
    "small": {"num_attention_heads": 3, "num_layers": 4},
    "medium": {"num_attention_heads": 6, "num_layers": 7},
    "large": {"num_attention_heads": 9, "num_layers": 10},
}
"""Width, in heads of 32, and depth; medium is the embedded model's."""
TOKENS_A_CLIP = 27
TIMED_STEPS = 20


def train(folder: Path, size: dict[str, int], steps: int, batch_size: int) -> dict[str, Any]:
    """Train one size, unless the folder has its report: parameters, losses by step, and tokens per second."""
    path = folder / "scaling.json"
    if path.exists():
        return json.loads(path.read_text())
    width = 32 * size["num_attention_heads"]
    settings = {
        "output": folder,
        "vae": embedded_model_path() / "vae",
        "model.num_attention_heads": size["num_attention_heads"],
        "model.cross_attention_dim": width,
        "model.num_layers": size["num_layers"],
        "steps": steps,
        "batch_size": batch_size,
        "cached_clips": 2048,
        "conditions": "{first_frame: 0.2}",
        "ema_decay": 0.99,
        "validate_every": max(1, steps // 8),
        "validation_clips": 128,
        "validation_prompts": 1,
        "log_every": max(1, steps // 32),
    }
    config = load_config(
        TransformerTrainConfig, CONFIG, [f"{key}={value}" for key, value in settings.items()]
    )
    trainer = Trainer(TransformerTask(config), config)
    trainer.train()
    begun = time.process_time()
    for _ in range(TIMED_STEPS):  # what they change isn't kept
        trainer.train_step()
    seconds = (time.process_time() - begun) / TIMED_STEPS
    transformer = LTXTransformer3DModel.from_pretrained(folder / "model", subfolder="transformer")
    report = {
        "width": width,
        "layers": size["num_layers"],
        "parameters": sum(parameter.numel() for parameter in transformer.parameters()),
        "tokens_per_second": batch_size * TOKENS_A_CLIP / seconds,
        **loss_curves(folder),
    }
    path.write_text(json.dumps(report))
    return report


def plot(reports: dict[str, dict[str, Any]], path: Path) -> None:
    """Losses by step and by processor time, and tokens per second by size."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 3.2), dpi=90, layout="constrained")
    by_step, by_time, speed = canvas.subplots(1, 3)
    for name, report in reports.items():
        steps, losses = zip(*report["held_out_loss"], strict=True)
        label = f"{name}, {report['parameters'] / 1e6:.1f} M"
        by_step.plot(steps, losses, "o-", markersize=3, label=label)
        seconds = report["tokens_per_step"] / report["tokens_per_second"]
        by_time.plot([step * seconds / 60 for step in steps], losses, "o-", markersize=3)
        speed.plot(report["parameters"] / 1e6, report["tokens_per_second"], "o")
    by_step.set(xlabel="step", ylabel="held-out loss", yscale="log")
    by_step.legend(frameon=False, fontsize=8)
    by_time.set(xlabel="processor minutes", yscale="log")
    speed.set(xlabel="parameters, M", ylabel="tokens per second", xscale="log", yscale="log")
    for axis in (by_step, by_time, speed):
        axis.grid(alpha=0.3, which="both")
    canvas.savefig(path)


def main() -> None:
    """Train what isn't trained, and write the report and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, required=True, help="folder of transformer_scaling.json")
    parser.add_argument("--picture", type=Path, required=True, help="folder of transformer_scaling.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reports = {
        name: train(options.runs / name, size, options.steps, options.batch_size)
        for name, size in SIZES.items()
    }
    for report in reports.values():
        report["tokens_per_step"] = options.batch_size * TOKENS_A_CLIP
    whole = {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/transformer_scaling.py"
        f" --steps {options.steps} --batch-size {options.batch_size}",
        "machine": f"{platform.system()} {platform.machine()}, 1 thread",
        **{name: metadata.version(name) for name in ("torch", "diffusers", "ltx-diffusers")},
        "sizes": reports,
    }
    (options.output / "transformer_scaling.json").write_text(
        json.dumps(whole, indent=1) + "\n", encoding="utf-8"
    )
    plot(reports, options.picture / "transformer_scaling.png")


if __name__ == "__main__":
    main()
