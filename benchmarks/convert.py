"""How fast `convert` is against a plain copy of the file, and how much memory it takes.

Makes a transformer of the 2B size in bfloat16 with random weights (3.85 GB) as an official file, and converts it to
Diffusers' layout and back. Each run is a process of its own; runs take turns (A B C A B C ...), and the median counts.
Before each run the source is dropped from the system's file cache, so that it is read from the disk; after it the
target is flushed to the disk, in the measured time, as the conversion does by itself. Checks and plans come before the
writing, and count. Peak memory is the resident set's peak during the conversion minus what it was right before. Needs
12 GB of disk. Run from the repository's root:

    python benchmarks/convert.py --rounds 5 --output benchmarks/results/convert.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path

CONVERT = """
import json, sys, time
from pathlib import Path
from ltx_diffusers.cli.stages import peak_memory
from ltx_diffusers.conversion.convert import convert
Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of the imports, doesn't count
before = peak_memory()
started, worked = time.perf_counter(), time.process_time()
made = convert(sys.argv[1], sys.argv[2], sys.argv[3])
seconds, cpu = time.perf_counter() - started, time.process_time() - worked
memory = peak_memory() - before
print(json.dumps({"seconds": seconds, "writing": made.seconds, "cpu": cpu, "memory": memory}))
"""

COPY = """
import json, os, shutil, sys, time
started, worked = time.perf_counter(), time.process_time()
shutil.copyfile(sys.argv[1], sys.argv[2])
with open(sys.argv[2], "rb") as file:
    os.fsync(file.fileno())
seconds, cpu = time.perf_counter() - started, time.process_time() - worked
print(json.dumps({"seconds": seconds, "writing": seconds, "cpu": cpu, "memory": 0}))
"""


def make_checkpoint(path: Path) -> None:
    """An official transformer file of the 2B size, bfloat16, with random weights."""
    import torch

    from ltx_diffusers import LTXTransformer3DModel
    from ltx_diffusers.conversion.official_configs import scheduler_to_official, transformer_to_official
    from ltx_diffusers.conversion.releases import RELEASES
    from ltx_diffusers.conversion.renames import to_official
    from ltx_diffusers.conversion.writing import PlannedTensor, write_safetensors
    from ltx_diffusers.models.transformers.released import RELEASED

    values = torch.randn(2**25).bfloat16()

    def some(shape: tuple[int, ...]) -> torch.Tensor:
        count = torch.Size(shape).numel()
        start = torch.randint(len(values) - count + 1, ()).item()
        return values[start : start + count].reshape(shape)

    with torch.device("meta"):
        model = LTXTransformer3DModel(**RELEASED["2b"], causal_temporal_positioning=True)
    config = {
        "transformer": transformer_to_official(model.config),
        "scheduler": scheduler_to_official(RELEASES["0.9.5"].scheduler_config),
    }
    planned = [
        PlannedTensor(
            f"model.diffusion_model.{to_official('transformer', name)}",
            torch.bfloat16,
            tuple(tensor.shape),
            partial(some, tuple(tensor.shape)),
        )
        for name, tensor in model.state_dict().items()
    ]
    write_safetensors(path, planned, {"config": json.dumps(config)})


def forget(path: Path) -> None:
    """Drop a file, or the files in a folder, from the system's file cache."""
    for file in [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(code: str, source: Path, target: Path, *arguments: str) -> dict[str, float]:
    """Seconds, seconds of processor and bytes of one run; deletes what it wrote."""
    forget(source)
    command = [sys.executable, "-c", code, str(source), str(target), *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    return json.loads(result.stdout)


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work; the system's default if left out"
    )
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        official, diffusers = folder / "official.safetensors", folder / "diffusers"
        make_checkpoint(official)
        size = official.stat().st_size
        subprocess.run(
            [sys.executable, "-c", CONVERT, str(official), str(diffusers), "diffusers"], check=True
        )
        runs = {
            "plain copy": partial(measure, COPY, official, folder / "copy"),
            "official to diffusers": partial(measure, CONVERT, official, folder / "out", "diffusers"),
            "diffusers to official": partial(
                measure, CONVERT, diffusers, folder / "out.safetensors", "official"
            ),
        }
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                figures[name].append(run())
    rows = {}
    for name, values in figures.items():
        seconds = sorted(value["seconds"] for value in values)
        rows[name] = {
            "median_seconds": round(statistics.median(seconds), 2),
            "fastest_seconds": round(seconds[0], 2),
            "slowest_seconds": round(seconds[-1], 2),
            "median_seconds_of_writing": round(statistics.median(value["writing"] for value in values), 2),
            "median_processor_seconds": round(statistics.median(value["cpu"] for value in values), 2),
            "median_mb_per_second": round(size / 1e6 / statistics.median(seconds)),
            "peak_memory_above_start_mb": round(max(value["memory"] for value in values) / 1e6),
        }
    report = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/convert.py --rounds {options.rounds}",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("ltx-diffusers", "safetensors", "torch")},
        "file_bytes": size,
        "rounds": options.rounds,
        "rows": rows,
    }
    print(json.dumps(report, indent=2))
    if options.output is not None:
        partial_file = options.output.with_suffix(".partial")
        partial_file.write_text(json.dumps(report, indent=2) + "\n")
        partial_file.replace(options.output)


if __name__ == "__main__":
    main()
