"""An in-context LoRA on the embedded model: outlines become filled shapes in the colour that the prompt asks for.

Trains the LoRA as `ltx-diffusers train transformer` does, with outlines of moving-shapes as references, then makes
videos of held-out clips: with the LoRA and the reference, and without one or both. The judge reads shape, colour and
motion; `track_distance` is how far its centroid is from the true clip's, as a share of the frame's side, meant over
the frames, and `overlap` is the mean share of the shape (intersection over union) that stands where the true one does.
Run from the repository's root:

    python benchmarks/lora_reference.py --run runs/lora_reference --output benchmarks/results/lora_reference.json
"""

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

from ltx_diffusers import LTXConditionPipeline, ReferenceVideo
from ltx_diffusers.data.moving_shapes import BACKGROUNDS, caption
from ltx_diffusers.data.pictures import contact_sheet
from ltx_diffusers.data.shape_clips import ShapeClip, ShapeClips
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.evaluation.judge import ShapesJudge
from ltx_diffusers.training.config import load_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig

CONFIG = "configs/lora/outlines.yaml"
ROWS = {
    "LoRA, reference": (True, True),
    "LoRA, no reference": (True, False),
    "no LoRA, reference": (False, True),
    "no LoRA, no reference": (False, False),
}
"""Whether a row has the LoRA and the reference."""
IN_SHEET = 4


def train(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Train the LoRA, unless the folder has one; how, and how long it took."""
    facts = folder / "training.json"
    if not facts.exists():
        config = load_config(TransformerTrainConfig, CONFIG, [f"output={folder}", *overrides])
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


def make(pipe: LTXConditionPipeline, clip: ShapeClip, seed: int, lora: bool, reference: bool) -> np.ndarray:
    """A video for a clip's plain caption, (F, H, W, 3) in [0, 1]."""
    outline = np.round(clip.references[0] * 255).astype(np.uint8)
    return pipe(
        caption(clip.spec),
        conditions=[ReferenceVideo(video=outline)] if reference else [],
        height=96,
        width=96,
        num_frames=17,
        frame_rate=8.0,
        attention_kwargs={"scale": float(lora)},
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).frames[0]


def cover(clip: ShapeClip, frames: np.ndarray) -> np.ndarray:
    """Which pixels (F, H, W) are more unlike the clip's background than half of what the true shape's are."""
    ground = np.asarray(BACKGROUNDS[clip.spec.background], np.float32)
    contrast = np.linalg.norm(frames - ground, axis=3)
    return contrast > 0.5 * np.linalg.norm(clip.frames - ground, axis=3).max()


def measure(clips: list[ShapeClip], videos: list[np.ndarray]) -> dict[str, float | None]:
    """Shares of videos that the judge finds right, and how far they are from the true clips."""
    judge = ShapesJudge()
    right: dict[str, list[bool]] = {"shape": [], "color": [], "motion": [], "all": []}
    distances, overlaps = [], []
    for clip, video in zip(clips, videos, strict=True):
        wanted, seen = judge.read(clip.frames), judge.read(video)
        for name, verdicts in right.items():
            verdicts.append(seen.right(clip.spec)[name])
        if seen.track is not None:
            distances.append(float(np.nanmean(np.linalg.norm(seen.track - wanted.track, axis=1))))
        true, made = cover(clip, clip.frames), cover(clip, video)
        overlaps.append(float((true & made).sum() / (true | made).sum()))
    return {name: round(float(np.mean(verdicts)), 3) for name, verdicts in right.items()} | {
        "track_distance": round(float(np.mean(distances)), 3) if distances else None,
        "overlap": round(float(np.mean(overlaps)), 3),
    }


def main() -> None:
    """Train, measure, print and write the report and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of the training")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--sheet", type=Path, default=None, help="a PNG file")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE of the config")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    training = train(options.run, options.overrides)
    reader = ShapeClips(split="held-out", seed=1, reference="outline")
    clips = [reader[number] for number in range(options.clips)]
    pipe = LTXConditionPipeline.from_pretrained(embedded_model_path())
    pipe.load_lora_weights(options.run / "model")
    pipe.set_progress_bar_config(disable=True)
    rows, videos = {}, {}
    for name, given in ROWS.items():
        videos[name] = [make(pipe, clip, seed, *given) for seed, clip in enumerate(clips)]
        rows[name] = measure(clips, videos[name])
        sys.stderr.write(f"{name}: {rows[name]}\n")
    report = {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/lora_reference.py --run RUN"
        + "".join(f" {each}" for each in options.overrides),
        "config": CONFIG,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {
            name: metadata.version(name) for name in ("ltx-diffusers", "diffusers", "peft", "torch")
        },
        "training": training,
        "clips": f"{options.clips}, held out",
        "rows": {"true clip": measure(clips, [clip.frames for clip in clips]), **rows},
    }
    text = json.dumps(report, indent=2) + "\n"
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    if options.sheet is not None:
        write_sheet(clips[:IN_SHEET], videos, options.sheet)
    sys.stdout.write(text)


def write_sheet(clips: list[ShapeClip], videos: dict[str, list[np.ndarray]], path: Path) -> None:
    """Some references, each above what was made of it with the LoRA, and without one or the other."""
    rows, titles = [], []
    for index, clip in enumerate(clips):
        rows.append(clip.references[0])
        titles.append(f"reference: {caption(clip.spec)}")
        for name in list(ROWS)[: 3 if index == 0 else 1]:
            rows.append(videos[name][index])
            titles.append(name)
    contact_sheet([np.round(row * 255).astype(np.uint8) for row in rows], titles, columns_frames=6, path=path)


if __name__ == "__main__":
    main()
