"""Speed and memory side by side: ours, Diffusers and the official package on the same random weights.

Targets take turns (A B B A), medians count, and what they compute is compared in the same run. On a CPU processor time
of one thread is measured. Beside each figure stands the share of the machine's measured peak that it reaches, and the
time that its operations take at that peak. Run from the repository's root:

    python -m benchmarks.run --output benchmarks/results/speed.json
    python -m benchmarks.run --device cuda --size 2b --dtypes bfloat16 --output benchmarks/results/speed_gpu.json

Beside the JSON file a table (.md) and, with matplotlib, a plot (.png) are written.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ltx_diffusers.models.autoencoders.released import RELEASED as RELEASED_VAES

from .cases import CASES as MODEL_CASES
from .cases import Models
from .measuring import (
    bandwidth,
    hardware,
    interleaved_seconds,
    peak_bytes,
    peak_flops,
    relative_error,
    summary,
)
from .sizes import SIZES
from .user_cases import CASES as USER_CASES
from .user_cases import Alone
from .vae_cases import CASES as VAE_CASES

CASES = MODEL_CASES | VAE_CASES | USER_CASES
TARGETS = ("ours", "diffusers", "official")


def measured(
    name: str, models: Models, targets: list[str], rounds: int, peak: float
) -> dict[str, dict[str, Any]]:
    """Figures of a case for each target that can do it; empty if none can."""
    case, device = CASES[name], models.device
    chosen = [way for target in targets for way in case.targets if way.split(",")[0] == target]
    if not chosen:
        return {}
    works = {target: case.make(models, target) for target in chosen}
    results = {target: work() for target, work in works.items()}  # warms up what libraries keep
    times = interleaved_seconds(works, rounds, device)
    peaks = {
        target: work.peak_bytes if isinstance(work, Alone) else peak_bytes(work, device)
        for target, work in works.items()
    }
    read = case.read or (lambda result: result)
    tensors = {target: read(result) for target, result in results.items()}
    first = next(iter(works))
    rows: dict[str, dict[str, Any]] = {}
    for target in works:
        row: dict[str, Any] = summary(times[target])
        ratios = sorted(theirs / ours for theirs, ours in zip(times[target], times[first], strict=True))
        row[f"times_slower_than_{first}"] = round(ratios[len(ratios) // 2], 3)
        row["peak_mb"] = None if peaks[target] is None else round(peaks[target] / 1e6)
        row[f"relative_error_to_{first}"] = float(f"{relative_error(tensors[target], tensors[first]):.2e}")
        if case.flops is not None:
            flops = case.flops(models.size)
            row["floor_seconds"] = round(flops / peak, 5)
            row["share_of_peak"] = round(flops / peak / row["median_seconds"], 3)
        if case.facts is not None:
            row |= case.facts(models, results[target])
        rows[target] = row
    return rows


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    lines = [
        f"`{report['command']}`, {report['date']}, {report['hardware']['name']}, "
        f"{report['hardware']['threads']} thread(s), "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        "",
        f"Times slower: median of {report['rounds']} pairs, against {report['targets'][0]}. Spread: half the distance "
        "of the quartiles.",
        "",
        "| case | target | seconds | spread | times slower | peak memory | error | share of the machine's peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in report["rows"].items():
        for target, row in rows.items():
            slower, error = (
                next(value for key, value in row.items() if key.startswith(start))
                for start in ("times_slower", "relative_error")
            )
            memory = "?" if row["peak_mb"] is None else f"{row['peak_mb']} MB"
            share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
            lines.append(
                f"| {name} | {target} | {row['median_seconds']:.3f} | {row['spread']:.1%} | {slower:.2f} | {memory} | "
                f"{error:.1e} | {share} |"
            )
    return "\n".join(lines) + "\n"


def plot(report: dict[str, Any], path: Path) -> None:
    """A bar for each case and other target: how many times slower it is."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        sys.stderr.write("no plot: matplotlib is not installed\n")
        return
    bars = []
    for name, rows in report["rows"].items():
        first, *others = rows
        bars += [(f"{name}\n{other}", rows[other][f"times_slower_than_{first}"]) for other in others]
    if not bars:
        return
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(bars) + 1.2))
    names, values = zip(*bars, strict=True)
    axes.barh(names, values, color="#4878a8")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel(f"times slower than {report['targets'][0]}")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def parsed() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    def names(known: tuple[str, ...]) -> Any:
        def parse(text: str) -> list[str]:
            given = text.split(",")
            if unknown := [name for name in given if name not in known]:
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
            return given

        return parse

    dtypes = ("float32", "bfloat16")
    parser.add_argument("--targets", type=names(TARGETS), default=["ours", "diffusers"])
    parser.add_argument("--cases", type=names(tuple(CASES)), default=list(CASES))
    parser.add_argument("--dtypes", type=names(dtypes), default=list(dtypes))
    parser.add_argument("--size", choices=SIZES, default="reduced")
    parser.add_argument("--tiny", action="store_const", const="tiny", dest="size", help="to try the script")
    parser.add_argument("--vae", choices=RELEASED_VAES, help="its release [default: the newest]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def main() -> None:
    """Measure, print and write the report."""
    options = parsed()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    device, size = torch.device(options.device), SIZES[options.size]
    if options.vae is not None:
        size = dataclasses.replace(size, vae_version=options.vae)
    packages = ["ltx-diffusers", "diffusers", "torch"]
    packages += ["ltx-video"] if "official" in options.targets else []
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": "python -m benchmarks.run " + " ".join(sys.argv[1:]),
        "hardware": hardware(device) | {"machine": platform.machine()},
        "versions": {name: metadata.version(name) for name in packages},
        "targets": options.targets,
        "rounds": options.rounds,
        "size": options.size,
        "vae": size.vae_version,
        "limits": {"gigabytes_per_second": round(bandwidth(device) / 1e9, 1)},
        "rows": {},
    }
    for name in options.dtypes:
        dtype = getattr(torch, name)
        peak = peak_flops(device, dtype)
        report["limits"][f"{name} gigaflops"] = round(peak / 1e9, 1)
        models = Models(size, dtype, device)
        for case in options.cases:
            rows = measured(case, models, options.targets, options.rounds, peak)
            if not rows:
                sys.stderr.write(f"{case}: no target of those chosen does it\n")
                continue
            report["rows"][f"{case} {name}"] = rows
            sys.stderr.write(f"{case} {name}: {json.dumps(rows)}\n")
            if options.output is not None:  # after each case, so that a stopped run keeps what it has
                write(options.output, json.dumps(report, indent=2) + "\n")
    sys.stdout.write(table(report))
    if options.output is not None:
        write(options.output.with_suffix(".md"), table(report))
        plot(report, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
