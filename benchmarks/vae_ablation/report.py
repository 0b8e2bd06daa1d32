"""Tables and plots of the runs that are there: mean and spread over the seeds, for each question and world."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .arms import ARMS, GROUPS, WORLDS
from .measuring import LEVELS
from .runs import GENERATION, REPORT, run_folder, write_json

Figure = Callable[[dict[str, Any]], float]
Runs = dict[str, dict[int, dict[str, Any]]]
"""Reports by arm and seed."""

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


def write_report(output: Path, seeds: Sequence[int], results: Path, pictures: Path) -> None:
    """Write `vae_ablation.json` and `vae_ablation.md`, and the plots.

    Args:
        output: Folder of the runs.
        seeds: Which to look for; runs that aren't there are left out.
        results: Folder of tables.
        pictures: Folder of plots.
    """
    runs = _read(output, seeds, REPORT, ARMS)
    generated = _read(output, seeds, GENERATION, GROUPS["ssvae"])
    tables = {
        question: {
            world: {
                arm: {
                    name: _summary(runs[world], GROUPS[question][0], arm, figure)
                    for name, figure in figures.items()
                }
                for arm in GROUPS[question]
                if runs[world].get(arm)
            }
            for world in WORLDS
        }
        for question, figures in FIGURES.items()
    }
    judged, reconstructed = (_judged(generated["shapes"], what) for what in ("judge", "reconstructed"))
    for folder in (results, pictures):
        folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "date": datetime.date.today().isoformat(),
        "command": "python -m benchmarks.vae_ablation all",
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} thread",
        **{name: metadata.version(name) for name in ("torch", "diffusers", "ltx-diffusers")},
    }
    found = {"tables": tables, "judged": judged, "reconstructed": reconstructed}
    write_json(results / "vae_ablation.json", environment | found, indent=1)
    lines = [line for question in GROUPS for line in _markdown(question, tables[question])]
    if judged:
        lines += ["## The same transformer on each latent space: share of videos that are right", ""]
        lines += [*_table(judged), *_differences(judged)]
        lines += ["## Of true clips that went through the VAE alone", "", *_table(reconstructed)]
    (results / "vae_ablation.md").write_text("\n".join(["# Ablation of the VAE's objectives", "", *lines]))
    for question in GROUPS:
        _plot(question, tables[question], pictures / f"{question}.png")
    if judged:
        _plot_generation(generated["shapes"], judged, pictures / "generation.png")


def _read(output: Path, seeds: Sequence[int], name: str, arms: Sequence[str]) -> dict[str, Runs]:
    """Reports by world, arm and seed, as far as they are there."""
    found: dict[str, Runs] = {}
    for world in WORLDS:
        paths = {arm: {seed: run_folder(output, world, arm, seed) / name for seed in seeds} for arm in arms}
        found[world] = {
            arm: {seed: json.loads(path.read_text()) for seed, path in own.items() if path.exists()}
            for arm, own in paths.items()
            if any(path.exists() for path in own.values())
        }
    return found


def _judged(runs: Runs, what: str) -> dict[str, dict[str, Any]]:
    """Shares of videos that are right, by arm and property."""
    first = GROUPS["ssvae"][0]
    return {
        arm: {name: _summary(runs, first, arm, lambda run, name=name: run[what][name]) for name in JUDGED}
        for arm in runs
    }


def _summary(runs: Runs, first: str, arm: str, figure: Figure) -> dict[str, Any]:
    """An arm's figure over the seeds, and its differences from the question's first arm, each of the same seed."""
    values = {seed: figure(run) for seed, run in runs[arm].items()}
    pairs = {
        seed: value - figure(runs[first][seed])
        for seed, value in values.items()
        if seed in runs.get(first, {})
    }
    found = _spread(values.values())
    if arm != first and pairs:
        found["difference"] = _spread(pairs.values())
    return found


def _spread(values: Iterable[float]) -> dict[str, Any]:
    values = list(values)
    spread = {"mean": np.mean(values), "lowest": np.min(values), "highest": np.max(values)}
    return {name: round(float(value), 4) for name, value in spread.items()} | {"seeds": len(values)}


def _markdown(question: str, worlds: dict[str, Any]) -> list[str]:
    lines = [f"## {question}", ""]
    for world, arms in worlds.items():
        if arms:
            lines += [f"{world}:", "", *_table(arms), *_differences(arms)]
    return lines


def _table(arms: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Mean (lowest to highest over the seeds) of each figure."""
    names = list(next(iter(arms.values())))
    lines = ["| arm | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm, figures in arms.items():
        lines.append(f"| {arm} | " + " | ".join(_cell(cell, ".4g") for cell in figures.values()) + " |")
    return [*lines, ""]


def _differences(arms: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """How the arms differ from the first, seed by seed: with the same clips, draws and first weights."""
    first, *others = arms
    if not others:
        return []
    lines = [f"| difference from {first} | " + " | ".join(arms[first]) + " |"]
    lines.append("|---" * (len(arms[first]) + 1) + "|")
    for arm in others:
        cells = [_cell(cell["difference"], "+.3g") for cell in arms[arm].values()]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(cell: dict[str, Any], form: str) -> str:
    return f"{cell['mean']:{form}} ({cell['lowest']:{form}} to {cell['highest']:{form}})"


def _plot(question: str, worlds: dict[str, Any], path: Path) -> None:
    """A row a world, a panel a figure: each arm's mean, and the range of its seeds."""
    from matplotlib.figure import Figure as Canvas

    names = list(FIGURES[question])
    rows = {world: arms for world, arms in worlds.items() if arms}
    canvas = Canvas(figsize=(2.6 * len(names), 0.4 + 2.4 * len(rows)), dpi=80, layout="constrained")
    panels = canvas.subplots(len(rows), len(names), squeeze=False)
    for (world, arms), row in zip(rows.items(), panels, strict=True):
        for axis, name in zip(row, names, strict=True):
            for place, figures in enumerate(arms.values()):
                cell = figures[name]
                axis.plot([place] * 2, [cell["lowest"], cell["highest"]], color="tab:blue", linewidth=2)
                axis.plot(place, cell["mean"], "o", color="tab:blue")
            axis.set_title(f"{name} ({world})", fontsize=9)
            axis.set_xticks(range(len(arms)), list(arms), rotation=30, ha="right", fontsize=8)
            axis.tick_params(axis="y", labelsize=8)
            axis.margins(x=0.2)
            axis.grid(axis="y", alpha=0.3)
    canvas.savefig(path)


def _plot_generation(runs: Runs, judged: dict[str, Any], path: Path) -> None:
    """Training losses by arm, and what the judge found right."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9, 3.4), dpi=90, layout="constrained")
    left, right = canvas.subplots(1, 2)
    for place, (arm, found) in enumerate(runs.items()):
        curves = [run["curve"] for run in found.values()]
        steps = [step for step, _ in curves[0]]
        losses = np.mean([[loss for _, loss in curve] for curve in curves], axis=0)
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
