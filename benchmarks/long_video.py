"""Long videos of the embedded model: do they change when told, without a jump, and in how much memory?

Changes: pairs of prompts with opposite motions, a span of two seconds each; the judge of moving-shapes reads each
span. Memory: `ltx-diffusers long` in processes of their own, for videos of growing length. Run from the repository's
root:

    python benchmarks/long_video.py --pairs 12 --output benchmarks/results/long_video.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from ltx_diffusers import LTXLongVideoPipeline
from ltx_diffusers.data.moving_shapes import BACKGROUNDS, COLORS
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.evaluation.judge import ShapesJudge

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
SPAN = 16  # frames: two seconds, one window
LENGTHS = (33, 129, 513)  # frames of the videos whose memory is measured


def changes(pairs: int, overlap_frames: int | None) -> dict[str, float | int]:
    """How many videos of two prompts show both, and the largest steps of the centroid as shares of the picture."""
    pipe = LTXLongVideoPipeline.from_pretrained(embedded_model_path())
    pipe.set_progress_bar_config(disable=True)
    judge, rng = ShapesJudge(), np.random.default_rng(0)
    right, at_the_change, elsewhere = 0, [], []
    for seed in range(pairs):
        shape, color, background, motion = (
            rng.choice(names)
            for names in (("circle", "square", "triangle"), list(COLORS), list(BACKGROUNDS), list(OPPOSITE))
        )
        texts = [
            f"a {color} {shape} moving {way} on a {background} background"
            for way in (motion, OPPOSITE[motion])
        ]
        video = pipe.stream(
            [(0, texts[0]), (2, texts[1])],
            2 * SPAN + 1,
            overlap_frames=overlap_frames,
            generator=torch.Generator().manual_seed(seed),
        )
        frames = np.concatenate(list(video))
        before, after = judge.read(frames[: SPAN + 1]), judge.read(frames[SPAN:])
        same = all((read.shape, read.color) == (shape, color) for read in (before, after))
        right += same and (before.motion, after.motion) == (motion, OPPOSITE[motion])
        steps = np.abs(np.diff(judge.read(frames).track, axis=0)).max(axis=1)
        near = slice(SPAN - 1, SPAN + 4)
        at_the_change.append(np.nanmax(steps[near]))
        elsewhere.append(np.nanmax(np.delete(steps, near)))
    return {
        "pairs": pairs,
        "all_right": int(right),
        "largest_step_at_the_change": round(float(max(at_the_change)), 4),
        "largest_step_elsewhere": round(float(max(elsewhere)), 4),
    }


def peak_memory(frames: int, folder: Path) -> float:
    """Peak resident memory in MB of the command in its own process."""
    command = [sys.executable, "-m", "ltx_diffusers", "long", "a blue square standing still", "--steps", "2"]
    command += ["--frames", str(frames), "--seed", "0", "-o", str(folder / f"{frames}.mp4")]
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=silent)
    _, status, usage = os.wait4(process, 0)
    if status != 0:
        raise SystemExit(f"failed with status {status}: {' '.join(command)}")
    return round(usage.ru_maxrss / 1024)


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        memory = {str(frames): peak_memory(frames, Path(folder)) for frames in LENGTHS}
    report = {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/long_video.py --pairs {options.pairs}",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in ("ltx-diffusers", "diffusers", "torch")},
        "peak_memory_mb_by_frames": memory,
        "overlap_1": changes(options.pairs, None),
        "overlap_9": changes(options.pairs, 9),
    }
    text = json.dumps(report, indent=2) + "\n"
    if options.output is not None:
        options.output.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
