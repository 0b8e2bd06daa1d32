"""Edits of moving shapes by the embedded model: does the colour change, and what else does?

Clips of moving-shapes are drawn; the prompt asks for another colour. The judge reads the edited clips; PSNR is against
the clip drawn in the new colour, whose shape, size and path are those of the source. Run from the repository's root:

    python benchmarks/editing.py --clips 12 --output benchmarks/results/editing.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx_diffusers import LTXEditPipeline
from ltx_diffusers.data.moving_shapes import COLORS, ClipSpec, caption, render, sample_spec
from ltx_diffusers.denoising.editing import FlowEdit, RFInversion
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.evaluation.judge import ShapesJudge
from ltx_diffusers.evaluation.metrics import psnr

SIZE = (17, 96, 96)
METHODS: dict[str, dict[str, Any]] = {
    **{
        f"flow-edit strength={level}": {"editor": FlowEdit(strength=level)} for level in (0.95, 0.9, 0.8, 0.7)
    },
    **{f"rf-inversion stop={level}": {"editor": RFInversion(stop=level)} for level in (0.95, 0.9, 0.7)},
}


def measure(pipe: LTXEditPipeline, specs: list[ClipSpec], settings: dict[str, Any]) -> dict[str, float]:
    """Shares of clips that the judge finds right, and how far the rest of the picture stays."""
    judge, names = ShapesJudge(), list(COLORS)
    right: dict[str, list[bool]] = {"color": [], "shape": [], "motion": [], "all": []}
    likeness, shifts, areas = [], [], []
    for seed, source in enumerate(specs):
        target = replace(source, color=names[(names.index(source.color) + 3) % len(names)])
        edited = pipe(
            np.round(render(source, *SIZE) * 255).astype(np.uint8),
            caption(target),
            source_prompt=caption(source) if isinstance(settings["editor"], FlowEdit) else "",
            frame_rate=8.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
            **settings,
        ).frames[0]
        wanted = render(target, *SIZE)
        before, after = judge.read(wanted), judge.read(edited)
        for name, verdicts in right.items():
            verdicts.append(after.right(target)[name])
        likeness.append(float(psnr(wanted, edited).mean()))
        if after.track is not None:
            shifts.append(float(np.nanmean(np.linalg.norm(after.track - before.track, axis=1))))
            areas.append(after.area / before.area)
    return {name: round(float(np.mean(verdicts)), 3) for name, verdicts in right.items()} | {
        "psnr": round(float(np.mean(likeness)), 1),
        "shift_of_centroid": round(float(np.mean(shifts)), 3),
        "area_ratio": round(float(np.median(areas)), 2),
    }


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    rng = np.random.default_rng(5)
    specs = [sample_spec(rng, "train") for _ in range(options.clips)]
    pipe = LTXEditPipeline.from_pretrained(embedded_model_path())
    pipe.set_progress_bar_config(disable=True)
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/editing.py --clips {options.clips}",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("ltx-diffusers", "diffusers", "torch")},
    }
    for name, settings in METHODS.items():
        report[name] = measure(pipe, specs, settings)
        sys.stderr.write(f"{name}: {report[name]}\n")
    text = json.dumps(report, indent=2) + "\n"
    if options.output is not None:
        options.output.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
