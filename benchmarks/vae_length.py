"""Peak memory of a decode over the length of the video: Diffusers' VAE and ways of this library, on the same weights.

Each decode runs in a process of its own; memory is the peak of its resident set above what it held before the call.
"streamed" takes frames as they come, as `generate` writes them, and never holds the video. Means of the frames are
compared between the ways. Run from the repository's root; beside the JSON file a plot (.png) is written:

    python -m benchmarks.vae_length --output benchmarks/results/vae_length.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ltx_diffusers.geometry import VideoSize

from .cases import Models
from .measuring import hardware, peak_bytes
from .sizes import Size
from .vae_cases import NOISE_LEVEL, latents_of, least_budget

WAYS = ("diffusers", "ours", "ours, least memory", "ours, streamed")
CPU = torch.device("cpu")


def one_decode(way: str, frames: int, height: int, width: int, divisor: int) -> dict[str, Any]:
    """Peak memory, processor time and means of the frames of one decode, to be called in a process of its own."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    video = (frames, height, width)
    models = Models(Size({}, video, video, vae_divisor=divisor), torch.float32, CPU)
    model, level = models.get("vae", way.split(",")[0]), torch.tensor([NOISE_LEVEL])
    model.decode(latents_of((1, 32, 32), seed=3), level)
    latents = latents_of(video, seed=3)
    if "least" in way:
        model.enable_memory_budget(least_budget(model, VideoSize(*video), latents.itemsize, decode=True))
    means: list[float] = []

    def work() -> None:
        pieces = (
            model.decode_stream(latents, level)
            if "streamed" in way
            else [model.decode(latents, level).sample]
        )
        for piece in pieces:
            means.extend(piece.mean(dim=(0, 1, 3, 4)).tolist())

    begin = time.process_time()
    peak = peak_bytes(work, CPU)
    return {"bytes": peak, "seconds": round(time.process_time() - begin, 3), "means": means}


def row(frames: int, height: int, width: int, divisor: int) -> dict[str, Any]:
    """All ways at one length."""
    # A forked process begins with what this one holds, and with its own account of the peak.
    context = multiprocessing.get_context("fork")
    measured = {}
    for way in WAYS:
        with context.Pool(1) as pool:
            measured[way] = pool.apply(one_decode, (way, frames, height, width, divisor))
    means = {way: torch.tensor(result.pop("means")) for way, result in measured.items()}
    for way, result in measured.items():
        result["largest_difference_of_means"] = float(f"{(means[way] - means['diffusers']).abs().max():.1e}")
    return {"frames": frames, "result_bytes": 4 * 3 * frames * height * width, "ways": measured}


def plot(report: dict[str, Any], path: Path) -> None:
    """Peak over length, a line for each way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    frames = [entry["frames"] for entry in report["rows"]]
    for way in WAYS:
        peaks = [entry["ways"][way]["bytes"] / 1e6 for entry in report["rows"]]
        axes.plot(frames, peaks, marker="o", markersize=3, label=way)
    results = [entry["result_bytes"] / 1e6 for entry in report["rows"]]
    axes.plot(frames, results, color="grey", linestyle=":", label="the video itself")
    axes.set_xlabel("frames")
    axes.set_ylabel("peak above the start, MB")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    """Measure, print, and write the report and its plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--lengths", type=int, nargs="*", default=[17, 57, 121, 257, 513, 1025], metavar="FRAMES"
    )
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--divisor", type=int, default=16, help="of the released widths")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    report = {
        "date": datetime.date.today().isoformat(),
        "command": "python -m benchmarks.vae_length " + " ".join(sys.argv[1:]),
        "hardware": hardware(CPU) | {"threads": 1},
        "versions": {name: metadata.version(name) for name in ("ltx-diffusers", "diffusers", "torch")},
        "vae": Size.vae_version,
        "divisor": options.divisor,
        "size": list(options.size),
        "rows": [],
    }
    for frames in options.lengths:
        report["rows"].append(row(frames, *options.size, options.divisor))
        sys.stdout.write(json.dumps(report["rows"][-1]) + "\n")
        sys.stdout.flush()
    if options.output is not None:
        partial = options.output.with_suffix(".partial")
        partial.write_text(json.dumps(report, indent=2) + "\n")
        partial.replace(options.output)
        plot(report, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
