"""How fast LoRAs are merged into a 2B checkpoint and extracted from two, and how much memory that takes.

Makes a transformer of the 2B size in bfloat16 with random weights (3.85 GB) and a LoRA of rank 32 on all its linear
layers. Merging is held against a plain copy of the file, in turns; extraction, of rank 32, is run once. Peak memory is
the resident set's peak during the work minus what it was right before. Needs 12 GB of disk. Run from the repository's
root:

    python benchmarks/lora.py --rounds 3 --output benchmarks/results/lora.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from convert import COPY, forget, make_checkpoint

RANK = 32

SETUP = """
import json, sys, time
from pathlib import Path
from ltx_diffusers.cli.stages import peak_memory
from ltx_diffusers.conversion.lora.extract import extract_lora
from ltx_diffusers.conversion.lora.merge import merge_loras
Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of the imports, doesn't count
before, processor, started = peak_memory(), time.process_time(), time.perf_counter()
"""
RESULT = """
seconds, processor = time.perf_counter() - started, time.process_time() - processor
memory = peak_memory() - before
print(json.dumps({"seconds": seconds, "processor_seconds": processor, "memory": memory, "error": error}))
"""
MERGE = f"{SETUP}merge_loras(sys.argv[1], [(sys.argv[3], 1.0)], sys.argv[2]); error = None{RESULT}"
EXTRACT = f"{SETUP}error = extract_lora(sys.argv[1], sys.argv[2], rank=int(sys.argv[3]))[1].error{RESULT}"


def run(code: str, source: Path, target: Path, *arguments: str) -> dict[str, float]:
    """Figures of one run, whose source isn't in the system's file cache."""
    forget(source)
    command = [sys.executable, "-c", code, str(source), str(target), *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return json.loads(result.stdout)


def row(runs: list[dict[str, float]]) -> dict[str, float]:
    """Medians of the times, and the largest memory."""
    return {
        "median_seconds": round(statistics.median(figures["seconds"] for figures in runs), 1),
        "median_processor_seconds": round(
            statistics.median(figures["processor_seconds"] for figures in runs), 1
        ),
        "peak_memory_above_start_mb": round(max(figures["memory"] for figures in runs) / 1e6),
    }


def make_lora(path: Path) -> None:
    """A LoRA for the 2B size, in ComfyUI's format, whose changes are small beside the weights."""
    import torch

    from ltx_diffusers import LTXTransformer3DModel
    from ltx_diffusers.conversion.lora.files import write_lora
    from ltx_diffusers.conversion.lora.layers import Lora, LoraLayer
    from ltx_diffusers.conversion.lora.names import layers_of
    from ltx_diffusers.models.transformers.released import RELEASED

    with torch.device("meta"):
        model = LTXTransformer3DModel(**RELEASED["2b"])
    layers = {}
    for name in layers_of(RELEASED["2b"]["num_layers"]):
        rows, columns = model.get_submodule(name).weight.shape
        down, up = torch.randn(RANK, columns) / RANK**0.5, torch.randn(rows, RANK) / 2
        layers[name] = LoraLayer(down.bfloat16(), up.bfloat16(), alpha=RANK)
    write_lora(Lora(layers), path, "comfy")


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work; the system's default if left out"
    )
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        base, lora, merged, copy = (
            folder / f"{part}.safetensors" for part in ("base", "lora", "merged", "copy")
        )
        make_checkpoint(base)
        make_lora(lora)
        size = base.stat().st_size
        copies, merges = [], []
        for _ in range(options.rounds):
            copies.append(run(COPY, base, copy))
            copy.unlink()
            merges.append(run(MERGE, base, merged, str(lora)))
        extracted = run(EXTRACT, base, merged, str(RANK))
    report = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/lora.py --rounds {options.rounds}",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("ltx-diffusers", "safetensors", "torch")},
        "file_bytes": size,
        "rank": RANK,
        "rounds": options.rounds,
        "rows": {
            "plain copy": {"median_seconds": round(statistics.median(each["seconds"] for each in copies), 1)},
            "merge": row(merges),
            "extract": row([extracted]) | {"error": round(extracted["error"], 4)},
        },
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
