"""The VAE against Diffusers' on the same random weights: processor time, peak memory, and whether the outputs agree.

Times are those of the processor (user and system) on one thread, Diffusers and this library in turn (A B B A), medians.
Memory is the peak above what was held before the call, each in a process of its own. Widths are the released ones
divided by --divisor. Run from the repository's root:

    python benchmarks/vae_speed.py --output benchmarks/results/vae_speed.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.models.autoencoders.released import RELEASED

LEVEL = 0.05
TILE, STRIDE = 128, 96  # pixels: Diffusers' spatial tiles where its 512 wouldn't cut anything


def config(version: str, divisor: int) -> dict[str, Any]:
    """The settings of a release with fewer channels."""
    settings = dict(RELEASED[version])
    for name in ("block_out_channels", "decoder_block_out_channels"):
        settings[name] = tuple(channels // divisor for channels in settings[name])
    return settings


def build(which: str, version: str, divisor: int, dtype: torch.dtype) -> torch.nn.Module:
    """One of the two implementations; both have the same weights."""
    settings = config(version, divisor)
    torch.manual_seed(0)
    plain = {name: value for name, value in settings.items() if not name.startswith("default_")}
    model = AutoencoderKLLTXVideo(**plain)
    if which == "ours":
        theirs, model = model, AutoencoderKLLTX(**settings)
        model.load_state_dict(theirs.state_dict())
    return model.to(dtype).eval()


def levels(version: str, dtype: torch.dtype) -> torch.Tensor | None:
    """The noise level that a denoising decoder is told."""
    return torch.tensor([LEVEL], dtype=dtype) if RELEASED[version]["timestep_conditioning"] else None


def in_turn(calls: dict[str, Callable[[], torch.Tensor]], repeats: int) -> dict[str, list[float]]:
    """Seconds of the processor of each call, in the order A B B A A B ..., after one call of each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name in list(calls) if repeat % 2 == 0 else reversed(list(calls)):
            begin = time.process_time()
            calls[name]()
            seconds[name].append(time.process_time() - begin)
    return seconds


def speed(version: str, task: str, dtype_name: str, size: Sequence[int], divisor: int, repeats: int) -> dict:
    """A row: one task of one release in one type."""
    dtype = getattr(torch, dtype_name)
    frames, height, width = size
    models = {which: build(which, version, divisor, dtype) for which in ("diffusers", "ours")}
    generator = torch.Generator().manual_seed(1)
    level = levels(version, dtype)
    if task == "decode":
        shape = (1, 128, (frames - 1) // 8 + 1, height // 32, width // 32)
        given = torch.randn(shape, generator=generator).to(dtype)
        code = lambda model: model.decode(given, level, return_dict=False)[0]  # noqa: E731
    else:
        given = (torch.rand(1, 3, *size, generator=generator) * 2 - 1).to(dtype)
        code = lambda model: model.encode(given).latent_dist.mean  # noqa: E731
    results = {}
    for which, model in models.items():
        torch.manual_seed(2)  # of the noise that 0.9.1 injects
        results[which] = code(model).float()
    difference = torch.linalg.vector_norm(results["ours"] - results["diffusers"])
    seconds = in_turn({which: (lambda m=model: code(m)) for which, model in models.items()}, repeats)
    medians = {which: statistics.median(values) for which, values in seconds.items()}
    ratios = [theirs / ours for theirs, ours in zip(seconds["diffusers"], seconds["ours"], strict=True)]
    return {
        "version": version,
        "task": task,
        "dtype": dtype_name,
        "size": list(size),
        "seconds": {which: round(value, 3) for which, value in medians.items()},
        "ratio": round(medians["diffusers"] / medians["ours"], 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "relative_difference": float(difference / torch.linalg.vector_norm(results["diffusers"])),
    }


WAYS = ("diffusers", "diffusers tiled", "diffusers tiled and framewise", "ours", "ours, least memory")


def least_budget(model: AutoencoderKLLTX, latents: torch.Tensor) -> int:
    """The smallest budget in which the model decodes exactly."""
    from ltx_diffusers.models.autoencoders.layout import decoder_layout
    from ltx_diffusers.models.autoencoders.memory import frames_at_once, peak_numbers, pixel_choices

    _, _, frames, height, width = latents.shape
    layout = decoder_layout(model.decoder, height, width)
    numbers = min(peak_numbers(layout, frames_at_once(layout, pixels), frames) for pixels in pixel_choices())
    video = 3 * ((frames - 1) * 8 + 1) * 32 * height * 32 * width
    return (numbers + video) * latents.dtype.itemsize


def one_decode(way: str, version: str, size: Sequence[int], divisor: int) -> dict[str, float]:
    """Processor time and peak memory of one decode, to be called in a process of its own."""

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    torch.set_num_threads(1)
    which = way.split()[0].rstrip(",")
    model = build(which, version, divisor, torch.float32)
    frames, height, width = size
    level = levels(version, torch.float32)
    with torch.no_grad():
        model.decode(torch.randn(1, 128, 1, 1, 1), level)
        latents = torch.randn(1, 128, (frames - 1) // 8 + 1, height // 32, width // 32)
        if "tiled" in way:
            model.enable_tiling(TILE, TILE, tile_sample_stride_height=STRIDE, tile_sample_stride_width=STRIDE)
        if "framewise" in way:
            model.use_framewise_decoding = True
        if "least" in way:
            model.enable_memory_budget(least_budget(model, latents))
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of building the model
        before, begin = status("VmRSS"), time.process_time()
        video = model.decode(latents, level, return_dict=False)[0]
        seconds = time.process_time() - begin
    result = video.numel() * video.element_size()
    return {"seconds": seconds, "bytes": status("VmHWM") - before, "result_bytes": result}


def long_video(version: str, size: Sequence[int], divisor: int, repeats: int, ways: Sequence[str]) -> dict:
    """All ways to decode one long video, in processes of their own, in turn."""
    runs: dict[str, list[dict]] = {way: [] for way in ways}
    # A forked process begins with what this one holds, and with its own account of the peak.
    context = multiprocessing.get_context("fork")
    for repeat in range(repeats):
        for way in ways if repeat % 2 == 0 else reversed(ways):
            with context.Pool(1) as pool:
                runs[way].append(pool.apply(one_decode, (way, version, size, divisor)))
    rows = {}
    for way, measured in runs.items():
        rows[way] = {key: statistics.median(run[key] for run in measured) for key in measured[0]}
    return {"version": version, "size": list(size), "divisor": divisor, "ways": rows}


def main() -> None:
    """Measure, and write the results as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--divisor", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=3, default=(25, 256, 384), metavar=("F", "H", "W"))
    parser.add_argument("--cases", nargs="*", default=None, metavar="VERSION:TASK:DTYPE")
    parser.add_argument("--long-divisor", type=int, default=8)
    parser.add_argument("--long-size", type=int, nargs=3, default=(121, 256, 384), metavar=("F", "H", "W"))
    parser.add_argument("--long-repeats", type=int, default=3)
    parser.add_argument("--long-ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument(
        "--lengths", type=int, nargs="*", default=(17, 121, 1025), help="frames, for peak over length"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    cases = options.cases
    if cases is None:
        cases = [f"{version}:decode:{dtype}" for version in RELEASED for dtype in ("float32", "bfloat16")]
        cases += ["0.9.0:encode:float32", "0.9.5:encode:float32"]
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/vae_speed.py " + " ".join(sys.argv[1:]),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {name: metadata.version(name) for name in ("torch", "diffusers", "ltx-diffusers")},
        "divisor": options.divisor,
        "repeats": options.repeats,
        "speed": [],
    }

    def keep() -> None:
        if options.output is not None:
            options.output.write_text(json.dumps(results, indent=2) + "\n")

    # First, while this process holds little.
    if options.long_repeats:
        results["long"] = long_video(
            "0.9.5", options.long_size, options.long_divisor, options.long_repeats, options.long_ways
        )
        print(results["long"], flush=True)
        keep()
    ways = ("diffusers", "ours, least memory")
    results["length"] = [long_video("0.9.5", (frames, 64, 96), 16, 1, ways) for frames in options.lengths]
    print(results["length"], flush=True)
    keep()
    for case in cases:
        version, task, dtype = case.split(":")
        row = speed(version, task, dtype, options.size, options.divisor, options.repeats)
        results["speed"].append(row)
        print(row, flush=True)
        keep()


if __name__ == "__main__":
    main()
