"""What the demonstrations of LoRAs on the embedded model share: the training, which a folder keeps, and the report."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx_diffusers.data.pictures import contact_sheet
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.training.config import load_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig

SIZE = VideoSize(17, 96, 96)


def parse_options(description: str, clips: int) -> argparse.Namespace:
    """The command line; also sets how many threads work."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of the training; one that is finished is used"
    )
    parser.add_argument(
        "--clips", type=int, default=clips, help="held-out clips that each row is measured on"
    )
    parser.add_argument("--output", type=Path, default=None, help="a JSON file")
    parser.add_argument("--sheet", type=Path, default=None, help="a PNG file")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE of the config")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    return parser.parse_args()


def train(config_path: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train the LoRA, unless the folder has one; how, and how long it took."""
    facts = options.run / "training.json"
    if not facts.exists():
        config = load_config(
            TransformerTrainConfig, config_path, [f"output={options.run}", *options.overrides]
        )
        started, processor = time.perf_counter(), time.process_time()
        Trainer(TransformerTask(config), config).train()
        figures = {
            "steps": config.steps,
            "batch_size": config.batch_size,
            "clips": config.cached_clips,
            "rank": config.adapter.rank,
            "seconds": round(time.perf_counter() - started),
            "processor_seconds": round(time.process_time() - processor),
        }
        facts.write_text(json.dumps(figures))
    return json.loads(facts.read_text())


def load_pipeline(kind: Any, lora: Path | None = None) -> Any:
    """A pipeline of the embedded model, with a LoRA."""
    pipeline = kind.from_pretrained(embedded_model_path())
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora)
    return pipeline


def write_report(
    config_path: str, options: argparse.Namespace, training: dict[str, Any], figures: dict[str, Any]
) -> None:
    """Write and print the figures, with what they were measured on."""
    script = f"python benchmarks/{Path(sys.argv[0]).name} --run RUN --clips {options.clips}"
    report = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join([script, *options.overrides]),
        "config": config_path,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            name: metadata.version(name) for name in ("ltx-diffusers", "diffusers", "peft", "torch")
        },
        "training": training,
        "clips": f"{options.clips}, held out",
        **figures,
    }
    text = json.dumps(report, indent=2) + "\n"
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def write_sheet(rows: list[tuple[str, np.ndarray]], path: Path | None) -> None:
    """A contact sheet of titled videos (F, H, W, 3), uint8 or floats in [0, 1]."""
    if path is None:
        return
    videos = [
        row if row.dtype == np.uint8 else np.round(row.clip(0, 1) * 255).astype(np.uint8) for _, row in rows
    ]
    contact_sheet(videos, [title for title, _ in rows], columns_frames=6, path=path)
