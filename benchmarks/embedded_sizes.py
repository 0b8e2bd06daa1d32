"""The judge's figures over the embedded transformer's runs on several sizes, for each of these sizes.

Train with `configs/embedded/sizes.yaml` first, and again on what it made if you like; then, from the repository's root:

    python benchmarks/embedded_sizes.py runs/embedded-sizes runs/embedded-last runs/embedded-finish \\
        --output benchmarks/results --picture docs/assets

The model before the first run is step 0; of each checkpoint the averaged weights count, which are what a run exports.
What is measured is kept in the runs' folders, so that an interrupted measurement can go on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from run_logs import LOSSES, loss_curves

from ltx_diffusers import LTXPipeline
from ltx_diffusers.evaluation.judge import ShapesJudge
from ltx_diffusers.evaluation.shape_cases import JudgedClip
from ltx_diffusers.evaluation.shapes import evaluate_shapes
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.training.config import load_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig

Shares = dict[str, dict[str, float]]


def model_at(run: Path, step: int) -> Path:
    """The finished model of a checkpoint: a run that is resumed there and has no steps left."""
    checkpoint = f"checkpoints/step-{step:08d}"
    folder = run / "measured" / f"step-{step:08d}"
    if not (folder / "model").exists():
        (folder / checkpoint).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / checkpoint).exists():
            (folder / checkpoint).symlink_to((run / checkpoint).resolve())
            (folder / "cache").symlink_to((run / "cache").resolve())
        last = [f"output={folder}", f"steps={step}", "validation_clips=0", "validation_prompts=1"]
        config = load_config(TransformerTrainConfig, run / "config.yaml", last)
        Trainer(TransformerTask(config), config, resume=True).train()
    return folder / "model"


def judged(model: Path, path: Path, sizes: Sequence[VideoSize], prompts: int, part: str) -> Shares:
    """Shares of videos that are right, by size and property; read from `path` if they are there.

    Args:
        model: Folder of the pipeline.
        path: Where they are kept.
        sizes: Of the videos.
        prompts: How many.
        part: "text-to-video"; or "vae" for true clips that only go through the VAE, a bound for the others.
    """
    if path.exists():
        return json.loads(path.read_text())
    pipeline = LTXPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    judge = ShapesJudge()
    found = {}
    for size in sizes:
        clips: list[JudgedClip] = []
        evaluate_shapes(pipeline, num_prompts=prompts, parts=(part,), size=size, on_clip=clips.append)
        right = [judge.read(clip.frames).right(clip.case.spec) for clip in clips]
        name = f"{size.width}x{size.height}, {size.frames} frames"
        found[name] = {key: round(sum(each[key] for each in right) / len(right), 4) for key in right[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


def plot(report: dict[str, Any], path: Path) -> None:
    """Losses over the runs, and the judge's shares of each size."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 3.6), dpi=90, layout="constrained")
    left, right = canvas.subplots(1, 2)
    for name, style in (("training_loss", "-"), ("held_out_loss", "o-")):
        steps, values = zip(*report[name], strict=True)
        left.plot(steps, values, style, markersize=4, linewidth=1, label=name.replace("_", " "))
    left.set(xlabel="step", ylabel="flow-matching loss")
    left.legend(frameon=False)
    steps = [int(step) for step in report["judge"]]
    for number, (size, bound) in enumerate(report["through_vae"].items()):
        values = [found[size]["all"] for found in report["judge"].values()]
        right.plot(steps, values, "o-", color=f"C{number}", label=size)
        right.plot(steps[-1] * 1.06, bound["all"], "_", markersize=14, markeredgewidth=3, color=f"C{number}")
    right.set(xlabel="step; bars: true clips through the VAE", ylabel="all three right", ylim=(0, 1.02))
    right.legend(frameon=False, fontsize=8, loc="lower right")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    canvas.savefig(path)


def main() -> None:
    """Measure what isn't measured, and write the report and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", type=Path, nargs="+", help="folders of the runs, each on what the one before made"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[2000, 4000], help="and the end of each run")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True, help="folder of embedded_sizes.json")
    parser.add_argument("--picture", type=Path, required=True, help="folder of embedded_sizes.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first = load_config(TransformerTrainConfig, options.runs[0] / "config.yaml")
    sizes = [bucket.size for bucket in first.buckets if bucket.num_frames > 1]
    begin, curves = 0, {name: [] for name in LOSSES}
    before = Path(str(first.initial_weights))

    def judge(model: Path, run: Path, name: str, part: str = "text-to-video") -> Shares:
        return judged(model, run / f"measured/{name}.json", sizes, options.prompts, part)

    found = {0: judge(before, options.runs[0], "0")}
    for run in options.runs:
        last = load_config(TransformerTrainConfig, run / "config.yaml").steps
        for name, curve in loss_curves(run).items():
            curves[name] += [(begin + step, loss) for step, loss in curve]
        for step in [*(step for step in options.steps if step < last and run is options.runs[0]), last]:
            model = run / "model" if step == last else model_at(run, step)
            found[begin + step] = judge(model, run, str(step))
        begin += last
    report = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/embedded_sizes.py RUNS --prompts {options.prompts}",
        "machine": f"{platform.system()} {platform.machine()}, 1 thread",
        **{name: metadata.version(name) for name in ("torch", "diffusers", "ltx-diffusers")},
        "prompts": options.prompts,
        **curves,
        "judge": {str(step): shares for step, shares in found.items()},
        "through_vae": judge(before, options.runs[0], "vae", "vae"),
    }
    text = json.dumps(report, indent=1) + "\n"
    (options.output / "embedded_sizes.json").write_text(text, encoding="utf-8")
    plot(report, options.picture / "embedded_sizes.png")


if __name__ == "__main__":
    main()
