"""All cases of a GPU in one run of less than nine minutes, on a machine that has nothing but PyTorch and Diffusers.

    python -m benchmarks.gpu                       # the 2B model, bfloat16, 768x512, 121 frames
    python -m benchmarks.gpu --tiny --device cpu   # tries the script

(With `PYTHONPATH=src` where the library isn't installed.)

Weights are random and the same for both libraries, nothing is read from files or the network. Each result is compared
with Diffusers' in the same run. JSON and a table are written after every case, and a case that the time left doesn't
allow, or that fails, is written down as such.

A row's floor is the larger of two times: its operations, counted on Diffusers' model, at the best measured product of
matrices, and its weights at the measured bandwidth. Floors of 8-bit rows are those of bf16.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import gc
import json
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .gpu_models import SIZES, GpuModels, Target, Work
from .measuring import (
    bandwidth,
    hardware,
    interleaved_seconds,
    peak_bytes,
    peak_flops,
    summary,
)

BUDGET = 490
"""Seconds for everything: nine minutes, less what starting Python and a last case may take longer."""


@dataclass
class Tried:
    """A target of a case that could be built.

    Attributes:
        work: Does it once.
        result: What came of it.
        first_seconds: To build it and do it for the first time.
        seconds: Of the second time.
        peak: Most bytes held then, above what was held before.
    """

    work: Work
    result: torch.Tensor
    first_seconds: float
    seconds: list[float]
    peak: int | None


class Report:
    """What was measured so far, written after each addition."""

    def __init__(self, head: dict[str, Any], output: Path | None) -> None:
        self.content = {**head, "rows": {}, "not measured": {}}
        self.output = output

    def add(self, case: str, rows: dict[str, dict[str, Any]]) -> None:
        """Add a case's rows, by target."""
        self.content["rows"].setdefault(case, {}).update(rows)
        self._write(f"{case}: {json.dumps(rows)}")

    def leave_out(self, case: str, reason: str) -> None:
        """Note why a case, or one target of it, has no row."""
        self.content["not measured"][case] = reason
        self._write(f"{case}: not measured: {reason}")

    def finish(self, seconds: float) -> None:
        """Note how long everything took."""
        self.content["seconds"] = round(seconds, 1)
        self._write(f"all: {seconds:.0f} s")

    def _write(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        if self.output is None:
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        texts = {".json": json.dumps(self.content, indent=2) + "\n", ".md": self.table()}
        for ending, text in texts.items():
            path = self.output.with_suffix(ending)
            partial = path.with_name(path.name + ".partial")
            partial.write_text(text)
            partial.replace(path)

    def table(self) -> str:
        """The report as Markdown."""
        content = self.content
        lines = [
            f"`{content['command']}`, {content['date']}, {content['hardware']['name']}, "
            + ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
            "",
            f"Best product of matrices {content['limits']['teraflops']} TFLOP/s, copies "
            f"{content['limits']['gigabytes_per_second']} GB/s. Seconds are medians; error against Diffusers.",
            "",
            "| case | target | seconds | spread | floor | share | peak GB | error | reach |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for case, rows in content["rows"].items():
            for target, row in rows.items():
                cells = [
                    _cell(row, name, form)
                    for name, form in (
                        ("median_seconds", "{:.4f}"),
                        ("spread", "{:.1%}"),
                        ("floor_seconds", "{:.4f}"),
                        ("share_of_floor", "{:.0%}"),
                        ("peak_gb", "{:.2f}"),
                        ("relative_error", "{:.1e}"),
                        ("reach", "{}"),
                    )
                ]
                lines.append(f"| {case} | {target} | " + " | ".join(cells) + " |")
        lines += [""] + [f"- {case}: not measured: {why}" for case, why in content["not measured"].items()]
        return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], name: str, form: str) -> str:
    return "" if row.get(name) is None else form.format(row[name])


class Bench:
    """Runs cases while there is time.

    Args:
        models: Builds what cases run.
        report: Gets their rows.
        seconds: For everything.
        rounds: Calls of each target at most.
    """

    def __init__(self, models: GpuModels, report: Report, seconds: float, rounds: int) -> None:
        self.models, self.report, self.rounds = models, report, rounds
        self.end = time.monotonic() + seconds
        self.reaches = models.size.reaches

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()

    def case(self, name: str, targets: Iterator[Target], floor: float | None) -> None:
        """Measure a case: targets in turn, compared with the one called "diffusers", or the first.

        Args:
            name: Of the case.
            targets: Name and work of each; a target is built when it is asked for, and left out if that fails.
            floor: Seconds that it takes at least, None if they weren't counted.
        """
        if self.left < 30:
            return self.report.leave_out(name, "no time was left")
        tried: dict[str, Tried] = {}
        for target, build in targets:
            if self.left < 10:
                self.report.leave_out(f"{name} of {target}", "no time was left")
                continue
            try:
                tried[target] = self._try(build)
            except Exception as error:  # a target that this machine can't do must not end the run
                traceback.print_exc(limit=3)
                text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                self.report.leave_out(f"{name} of {target}", text)
        if tried:
            self._measure(name, tried, floor)
        return None

    def _try(self, build: Callable[[], Work]) -> Tried:
        device, begin = self.models.device, time.monotonic()
        work = build()
        work()  # compiles, chooses kernels
        first = time.monotonic() - begin
        seen: dict[str, Any] = {}

        def once() -> None:
            call = {"once": lambda: seen.update(result=work())}
            seen["seconds"] = interleaved_seconds(call, 1, device)["once"]

        peak = peak_bytes(once, device)
        return Tried(work, seen["result"].clone(), first, seen["seconds"], peak)

    def _measure(self, name: str, tried: dict[str, Tried], floor: float | None) -> None:
        each = max(sum(one.seconds[0] for one in tried.values()), 1e-4)
        rounds = max(0, min(self.rounds, int(min(self.left * 0.4, 45) / each)))
        works = {target: one.work for target, one in tried.items()}
        times = interleaved_seconds(works, rounds, self.models.device)
        reference = tried.get("diffusers", next(iter(tried.values()))).result
        rows = {}
        for target, one in tried.items():
            # With no time for more, the call whose memory was measured has to do.
            row: dict[str, Any] = summary(times[target] or one.seconds)
            row["rounds"] = len(times[target] or one.seconds)
            row["first_call_seconds"] = round(one.first_seconds, 3)
            row["peak_gb"] = None if one.peak is None else round(one.peak / 1e9, 3)
            row["relative_error"] = float(f"{_relative_error(one.result, reference):.2e}")
            if floor is not None:
                row["floor_seconds"] = float(f"{floor:.4g}")
                row["share_of_floor"] = round(floor / max(row["median_seconds"], 1e-9), 3)
            if (name, target) in self.reaches:
                wanted = self.reaches[name, target]
                reached = row["median_seconds"] <= wanted
                row["reach"] = f"<= {wanted} s: {'reached' if reached else 'not reached'}"
            rows[target] = row
        self.report.add(name, rows)


def _relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """|got - expected| / |expected|, where the tensors are."""
    got, expected = got.float(), expected.float()
    return float((got - expected).norm() / expected.norm())


def run(bench: Bench, only: str = "") -> None:
    """All cases with `only` in their names, what matters most first."""
    models = bench.models
    steps = models.size.steps
    plans = [
        ("step, one text", lambda: models.steps(1), 1),
        (f"{steps} steps without guidance, to uint8", lambda: models.videos(steps, False), steps),
        ("decode", models.decodes, 0),
        ("step, two texts", lambda: models.steps(2), 2),
        ("8 steps, distilled, to uint8", lambda: models.videos(8, False), 8),
        (f"{2 * steps} steps with guidance, to uint8", lambda: models.videos(2 * steps, True), 4 * steps),
        ("encode", models.encodes, 0),
        ("load the transformer", models.loads, 0),
    ]
    for name, targets, transformer_runs in plans:
        if only not in name:
            continue
        floor = None
        try:
            floor = bench.models.floor(name, transformer_runs)
        except Exception as error:
            bench.report.leave_out(f"floor of {name}", f"{type(error).__name__}: {error}"[:200])
        try:
            bench.case(name, targets(), floor)
        except Exception as error:  # the cases after it still count
            bench.report.leave_out(name, f"{type(error).__name__}: {error}"[:200])
        gc.collect()
    if only not in "whole text-to-video":
        return
    if bench.left < 10:
        bench.report.leave_out("whole text-to-video", "no time was left")
        return
    try:
        bench.report.add("whole text-to-video, T5 freed", {"ours": models.whole_memory()})
    except Exception as error:
        bench.report.leave_out("whole text-to-video", f"{type(error).__name__}: {error}"[:200])


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="to try the script")
    parser.add_argument("--seconds", type=float, default=BUDGET, help="for everything")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases with this in their names")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --tiny --device cpu tries the script")
    start = time.monotonic()
    warnings.simplefilter("ignore")
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    size = copy.copy(SIZES["tiny" if options.tiny else "2b"])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    flops, bytes_a_second = peak_flops(device, dtype), bandwidth(device)
    packages = ("ltx-diffusers", "diffusers", "torch", "torchao", "triton")
    head = {
        "date": datetime.date.today().isoformat(),
        "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:]),
        "hardware": hardware(device) | {"machine": platform.machine()},
        "versions": {name: _version(name) for name in packages if _version(name)},
        "dtype": str(dtype).removeprefix("torch."),
        "limits": {
            "teraflops": round(flops / 1e12, 3),
            "gigabytes_per_second": round(bytes_a_second / 1e9, 1),
        },
    }
    report = Report(head, options.output)
    models = GpuModels(size, dtype, device, flops, bytes_a_second)
    bench = Bench(models, report, options.seconds - (time.monotonic() - start), options.rounds)
    run(bench, options.only)
    report.finish(time.monotonic() - start)
    sys.stdout.write(report.table())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
