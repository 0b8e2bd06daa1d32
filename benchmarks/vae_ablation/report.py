"""Tables and plots of the runs that are there: mean and spread over the seeds, for each question and world."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .arms import ARMS, GROUPS, WORLDS
from .measuring import LEVELS
from .runs import GENERATION, REPORT, run_folder, write_json

Figure = Callable[[dict[str, Any]], float]

FIGURES: dict[str, dict[str, Figure]] = {
    "losses": {
        "PSNR, dB": lambda run: run["reconstruction"]["psnr"],
        "SSIM": lambda run: run["reconstruction"]["ssim"],
        "detail kept": lambda run: run["reconstruction"]["detail"],
        "feature distance": lambda run: run["reconstruction"]["features"],
        "flicker": lambda run: run["reconstruction"]["flicker"],
    },
    "log-variance": {
        "PSNR, dB": lambda run: run["reconstruction"]["psnr"],
        "channels used": lambda run: run["latents"]["used_channels"],
        "effective rank": lambda run: run["latents"]["effective_rank"],
    },
    "denoising-decoder": {
        f"PSNR at noise {level:g}, dB": lambda run, index=index: run["reconstruction"]["psnr_told"][index]
        for index, level in enumerate(LEVELS)
    },
    "ssvae": {
        "PSNR, dB": lambda run: run["reconstruction"]["psnr"],
        "local correlation": lambda run: run["latents"]["local_correlation"],
        "low-frequency share": lambda run: run["latents"]["spectrum"]["low_frequency_share"],
        "first component": lambda run: run["latents"]["first_component"],
        "effective rank": lambda run: run["latents"]["effective_rank"],
        "PSNR drop at noise 0.4, dB": lambda run: run["noise"]["drop"][-1],
    },
}
"""What each question is judged by."""

JUDGED = ("color", "shape", "motion", "all")


def write_report(output: Path, seeds: Sequence[int], results: Path) -> None:
    """Write `vae_ablation.json`, `vae_ablation.md` and the plots into a folder of results.

    Args:
        output: Folder of the runs.
        seeds: Which to look for; runs that aren't there are left out.
        results: Where to.
    """
    runs = _read(output, seeds, REPORT, ARMS)
    generated = _read(output, seeds, GENERATION, GROUPS["ssvae"])
    tables = {
        question: {
            world: {
                arm: {
                    name: _summary([figure(run) for run in runs[world][arm]])
                    for name, figure in figures.items()
                }
                for arm in GROUPS[question]
                if runs[world].get(arm)
            }
            for world in WORLDS
        }
        for question, figures in FIGURES.items()
    }
    judged = {
        arm: {name: _summary([run["judge"][name] for run in found]) for name in JUDGED}
        for arm, found in generated["shapes"].items()
    }
    results.mkdir(parents=True, exist_ok=True)
    environment = {
        "date": datetime.date.today().isoformat(),
        "command": "python -m benchmarks.vae_ablation all",
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} thread",
        **{name: metadata.version(name) for name in ("torch", "diffusers", "ltx-diffusers")},
    }
    write_json(results / "vae_ablation.json", {**environment, "tables": tables, "judged": judged}, indent=1)
    lines = [line for question in GROUPS for line in _markdown(question, tables[question])]
    if judged:
        lines += ["## The same transformer on each latent space: share of videos that are right", ""]
        lines += _table(judged)
    (results / "vae_ablation.md").write_text("\n".join(["# Ablation of the VAE's objectives", "", *lines]))
    for question in GROUPS:
        _plot(question, tables[question], results / f"vae_ablation_{question}.png")
    if judged:
        _plot_generation(generated["shapes"], judged, results / "vae_ablation_generation.png")


def _read(
    output: Path, seeds: Sequence[int], name: str, arms: Sequence[str]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Reports by world and arm, of the seeds that are there."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for world in WORLDS:
        paths = {arm: [run_folder(output, world, arm, seed) / name for seed in seeds] for arm in arms}
        found[world] = {
            arm: [json.loads(path.read_text()) for path in own if path.exists()]
            for arm, own in paths.items()
            if any(path.exists() for path in own)
        }
    return found


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": round(float(np.mean(values)), 4),
        "lowest": round(float(np.min(values)), 4),
        "highest": round(float(np.max(values)), 4),
        "seeds": len(values),
    }


def _markdown(question: str, worlds: dict[str, Any]) -> list[str]:
    lines = [f"## {question}", ""]
    for world, arms in worlds.items():
        if arms:
            lines += [f"{world}:", "", *_table(arms)]
    return lines


def _table(arms: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Mean (lowest to highest over the seeds) of each figure."""
    names = list(next(iter(arms.values())))
    lines = ["| arm | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm, figures in arms.items():
        cells = [
            f"{cell['mean']:.3g} ({cell['lowest']:.3g} to {cell['highest']:.3g})" for cell in figures.values()
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _plot(question: str, worlds: dict[str, Any], path: Path) -> None:
    """A panel a figure: each arm's seeds' range and mean, both worlds beside each other."""
    from matplotlib.figure import Figure as Canvas

    arms, names = GROUPS[question], list(FIGURES[question])
    canvas = Canvas(figsize=(2.6 * len(names), 3.2), dpi=90, layout="constrained")
    for axis, name in zip(np.atleast_1d(canvas.subplots(1, len(names))), names, strict=True):
        for shift, world, color in zip((-0.12, 0.12), WORLDS, ("tab:blue", "tab:orange"), strict=True):
            for place, arm in enumerate(arms):
                if arm in worlds[world]:
                    cell = worlds[world][arm][name]
                    axis.plot(
                        [place + shift] * 2, [cell["lowest"], cell["highest"]], color=color, linewidth=2
                    )
                    axis.plot(
                        place + shift, cell["mean"], "o", color=color, label=world if not place else None
                    )
        axis.set_title(name, fontsize=9)
        axis.set_xticks(range(len(arms)), arms, rotation=30, ha="right", fontsize=8)
        axis.tick_params(axis="y", labelsize=8)
        axis.grid(axis="y", alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    canvas.savefig(path)


def _plot_generation(runs: dict[str, list[dict[str, Any]]], judged: dict[str, Any], path: Path) -> None:
    """Training losses by arm, and what the judge found right."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9, 3.4), dpi=90, layout="constrained")
    left, right = canvas.subplots(1, 2)
    for place, (arm, found) in enumerate(runs.items()):
        steps = [step for step, _ in found[0]["curve"]]
        losses = np.mean([[loss for _, loss in run["curve"]] for run in found], axis=0)
        left.plot(steps, losses, label=arm, linewidth=1.2)
        for shift, name in enumerate(JUDGED):
            cell = judged[arm][name]
            spread = [[cell["mean"] - cell["lowest"]], [cell["highest"] - cell["mean"]]]
            right.bar(shift + 0.2 * place, cell["mean"], 0.18, yerr=spread, color=f"C{place}")
    left.set(xlabel="step", ylabel="flow-matching loss (not comparable)", title="training of the transformer")
    left.legend(frameon=False, fontsize=8)
    right.set_xticks(np.arange(len(JUDGED)) + 0.3, JUDGED)
    right.set(ylim=(0, 1), ylabel="share of videos right", title="the judge on decoded videos")
    canvas.savefig(path)
