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
from functools import partial
from importlib import metadata
from pathlib import Path

from convert import COPY, forget, make_checkpoint, measure

RANK = 32

MERGE = """
import json, sys, time
from pathlib import Path
from ltx_diffusers.cli.stages import peak_memory
from ltx_diffusers.conversion.lora.merge import merge_loras
Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of the imports, doesn't count
before = peak_memory()
started = time.perf_counter()
merge_loras(sys.argv[1], [(sys.argv[3], 1.0)], sys.argv[2])
print(json.dumps({"seconds": time.perf_counter() - started, "memory": peak_memory() - before}))
"""

EXTRACT = """
import json, sys, time
from pathlib import Path
from ltx_diffusers.cli.stages import peak_memory
from ltx_diffusers.conversion.lora.extract import extract_lora
Path("/proc/self/clear_refs").write_text("5")
before = peak_memory()
started = time.perf_counter()
lora, report = extract_lora(sys.argv[1], sys.argv[2], rank=int(sys.argv[3]))
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "memory": peak_memory() - before, "error": report.error}))
"""


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
        base, lora, merged = (folder / f"{part}.safetensors" for part in ("base", "lora", "merged"))
        make_checkpoint(base)
        make_lora(lora)
        size = base.stat().st_size
        runs = {
            "plain copy": partial(measure, COPY, base, folder / "copy"),
            "merge": partial(measure, MERGE, base, folder / "out.safetensors", str(lora)),
        }
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                figures[name].append(run())
        subprocess.run(
            [sys.executable, "-c", MERGE, base, merged, lora], check=True, stdout=subprocess.DEVNULL
        )
        forget(base)
        result = subprocess.run(
            [sys.executable, "-c", EXTRACT, base, merged, str(RANK)],
            capture_output=True,
            text=True,
            check=True,
        )
        extracted = json.loads(result.stdout)
    report = {
        "command": "python benchmarks/lora.py",
        "date": datetime.date.today().isoformat(),
        "rounds": options.rounds,
        "checkpoint_gb": round(size / 1e9, 2),
        "rank": RANK,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": metadata.version("torch"),
        **{
            name: {
                "median_seconds": round(statistics.median(seconds for seconds, _ in values), 1),
                "peak_memory_above_start_mb": round(max(memory for _, memory in values)),
            }
            for name, values in figures.items()
        },
        "extract": {
            "seconds": round(extracted["seconds"], 1),
            "peak_memory_above_start_mb": round(extracted["memory"] / 1e6),
            "error": round(extracted["error"], 4),
        },
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
