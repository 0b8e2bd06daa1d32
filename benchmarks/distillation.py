"""A student of few steps beside its teacher, the embedded model: what the judge sees, and how near their latents are.

Train the student first (docs/how-to/distill.md), then, from the repository's root:

    python benchmarks/distillation.py runs/distill/model --prompts 60 --output benchmarks/results/distillation.json
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

from ltx_diffusers import LTXPipeline
from ltx_diffusers.data.pictures import contact_sheet
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.evaluation.shape_cases import draw_cases
from ltx_diffusers.evaluation.shapes import evaluate_shapes
from ltx_diffusers.schedulers.flow_match import LTXFlowMatchScheduler

REFERENCE = "teacher, 40 steps, guided"
STUDENT = "student"
TEACHERS: dict[str, dict[str, Any]] = {
    REFERENCE: {"default_num_inference_steps": 40},
    "teacher, 8 steps, guided": {"default_num_inference_steps": 8},
    "teacher, 8 uniform steps, guided": {"schedule": "uniform", "default_num_inference_steps": 8},
    "teacher, 8 uniform steps": {
        "schedule": "uniform",
        "default_num_inference_steps": 8,
        "default_guidance_scale": 1.0,
    },
}
"""How the teacher samples in each row: changes of its scheduler's settings."""
LATENTS_SEED = 7
NUM_LATENTS = 24


def measure(pipeline: LTXPipeline, num_prompts: int) -> dict[str, float]:
    """What the judge finds right, by part and name."""
    report = evaluate_shapes(pipeline, num_prompts=num_prompts, parts=("text-to-video", "image-to-video"))
    return {f"{figure['part']}: {figure['name']}": round(figure["value"], 3) for figure in report["figures"]}


def latents(pipeline: LTXPipeline) -> torch.Tensor:
    """Latents (B, C, F, H, W) of videos for some prompts, from the same noise in every row."""
    return pipeline(
        [case.prompt for case in draw_cases(NUM_LATENTS, LATENTS_SEED)],
        generator=[torch.Generator().manual_seed(number) for number in range(NUM_LATENTS)],
        output_type="latent",
    ).frames.float()


def frames(pipeline: LTXPipeline) -> list[np.ndarray]:
    """The first videos of those prompts, uint8 (F, H, W, 3)."""
    cases = draw_cases(NUM_LATENTS, LATENTS_SEED)[:3]
    generators = [torch.Generator().manual_seed(number) for number in range(len(cases))]
    made = pipeline([case.prompt for case in cases], generator=generators, output_type="np").frames
    return [np.round(video * 255).astype(np.uint8) for video in made]


def main() -> None:
    """Measure all rows; write the report and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student", type=Path, help="folder of the distilled pipeline")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--output", type=Path, default=None, help="a JSON file")
    parser.add_argument("--sheet", type=Path, default=None, help="a PNG file")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    rows: dict[str, dict[str, Any]] = {}
    videos: dict[str, list[np.ndarray]] = {}
    reference = None
    for name in [*TEACHERS, STUDENT]:
        pipeline = LTXPipeline.from_pretrained(options.student if name == STUDENT else embedded_model_path())
        pipeline.set_progress_bar_config(disable=True)
        if name != STUDENT:
            config = dict(pipeline.scheduler.config) | TEACHERS[name]
            pipeline.register_modules(scheduler=LTXFlowMatchScheduler.from_config(config))
        settings = pipeline.scheduler.config
        guided = settings.default_guidance_scale > 1
        begun = time.process_time()
        made = latents(pipeline)
        seconds = (time.process_time() - begun) / NUM_LATENTS
        reference = made if reference is None else reference
        error = ((made - reference) ** 2).flatten(1).mean(1) / reference.flatten(1).var(1)
        rows[name] = {
            "calls of the transformer": settings.default_num_inference_steps * (2 if guided else 1),
            "processor seconds a video, without decoding": round(seconds, 3),
            "squared error of the latents, relative": round(float(error.mean()), 4),
            **measure(pipeline, options.prompts),
        }
        videos[name] = frames(pipeline)
        sys.stderr.write(f"{name}: {rows[name]}\n")
    report = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/distillation.py STUDENT --prompts {options.prompts}",
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: metadata.version(name) for name in ("ltx-diffusers", "diffusers", "torch")},
        "prompts": f"{options.prompts}, held out",
        "rows": rows,
    }
    text = json.dumps(report, indent=2) + "\n"
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    if options.sheet is not None:
        shown = [name for name in rows if name in (REFERENCE, "teacher, 8 uniform steps", STUDENT)]
        pairs = [(videos[name][number], name) for number in range(3) for name in shown]
        contact_sheet(*map(list, zip(*pairs, strict=True)), columns_frames=6, path=options.sheet)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
