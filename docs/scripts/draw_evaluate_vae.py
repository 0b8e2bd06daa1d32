"""Run the commands of docs/how-to/evaluate-vae.md and keep their pictures: docs/assets/vae/."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ltx_diffusers.cli.app import main as run
from ltx_diffusers.data.pictures import contact_sheet
from ltx_diffusers.data.video import read_video

DOCS = Path(__file__).parents[1]
PAGE, TARGET = DOCS / "how-to" / "evaluate-vae.md", DOCS / "assets" / "vae"
PLOTS = ("reconstruction/reconstruction.png", "latents/channels.png", "latents-of-run/training.png")
COLORS = 256  # a palette keeps the pictures small
SHADED = "channels.png"
SHOWN, FRAMES, COLUMNS = 2, 17, 8  # clips, frames of each, frames in a row


def main() -> None:
    """Run everything in a folder that is thrown away."""
    blocks = re.findall(r"```bash\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").strip().splitlines()]
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        shutil.copytree(DOCS.parent / "configs", "configs")
        for line in lines:
            if code := run(shlex.split(line)[1:]):
                raise SystemExit(f"{line} ended with {code}")
        for plot in PLOTS:
            keep(Image.open(plot), Path(plot).name)
        keep(worst(Path("reconstruction/worst.mp4")), "worst.png")
        os.chdir(DOCS)


def worst(path: Path) -> Image.Image:
    """The worst clips of a report, originals above reconstructions."""
    frames, _ = read_video(path)
    clips = [frames[FRAMES * index : FRAMES * (index + 1)] for index in range(SHOWN)]
    rows = [half for clip in clips for half in np.split(clip, 2, axis=2)]
    return contact_sheet(rows, ["original", "reconstruction"] * SHOWN, COLUMNS)


def keep(picture: Image.Image, name: str) -> None:
    """Write a picture, with a palette unless it has many shades."""
    picture = picture.convert("RGB")
    picture = picture if name == SHADED else picture.quantize(COLORS)
    picture.save(TARGET / name, optimize=True)


if __name__ == "__main__":
    main()
