"""How long users wait before anything happens: imports against Diffusers', and a cold `generate`.

Each command runs in a process of its own, the commands take turns (A B A B ...), and the median counts. Peak memory is
the resident set of the process. Run from the repository's root:

    python benchmarks/startup.py --rounds 5 --output benchmarks/results/startup.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

PROMPT = "a red circle moving right"


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured, by name."""
    python = [sys.executable, "-c"]
    ours = [sys.executable, "-m", "ltx_diffusers"]
    return {
        "import ltx_diffusers": [*python, "import ltx_diffusers"],
        "import diffusers": [*python, "import diffusers"],
        "from ltx_diffusers import LTXPipeline": [*python, "from ltx_diffusers import LTXPipeline"],
        "from diffusers import LTXPipeline": [*python, "from diffusers import LTXPipeline"],
        "ltx-diffusers --help": [*ours, "--help"],
        "ltx-diffusers generate": [*ours, "generate", PROMPT, "--seed", "0", "-o", str(folder / "video.mp4")],
    }


def measure(command: list[str]) -> tuple[float, float]:
    """Wall time in seconds and peak memory in MB of one run in its own process."""
    started = time.perf_counter()
    process = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)],
    )
    _, status, usage = os.wait4(process, 0)
    if status != 0:
        raise SystemExit(f"failed with status {status}: {' '.join(command)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = commands(Path(folder))
        for command in runs.values():  # warm the file cache
            measure(command)
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, command in runs.items():
                figures[name].append(measure(command))
    rows = {
        name: {
            "median_seconds": round(statistics.median(seconds for seconds, _ in values), 2),
            "fastest_seconds": round(min(seconds for seconds, _ in values), 2),
            "slowest_seconds": round(max(seconds for seconds, _ in values), 2),
            "peak_memory_mb": round(max(memory for _, memory in values)),
        }
        for name, values in figures.items()
    }
    report = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/startup.py --rounds {options.rounds}",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            name: metadata.version(name) for name in ("ltx-diffusers", "diffusers", "transformers", "torch")
        },
        "rounds": options.rounds,
        "rows": rows,
    }
    print(json.dumps(report, indent=2))
    if options.output is not None:
        partial = options.output.with_suffix(".partial")
        partial.write_text(json.dumps(report, indent=2) + "\n")
        partial.replace(options.output)


if __name__ == "__main__":
    main()
