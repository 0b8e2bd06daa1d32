"""Write a few short captioned videos and pictures, for trying out the data commands: python make_clips.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.data.video import write_image, write_video

COUNT = 8


def main(folder: Path) -> None:
    """Write them."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = ShapeClips(num_frames=17, height=96, width=96)
    for number in range(COUNT):
        clip = clips[number]
        frames = (clip.frames * 255).round().astype(np.uint8)
        write_video(folder / f"clip{number}.mp4", frames, 24)
        write_image(folder / f"still{number}.png", frames[0])
        for name in (f"clip{number}.txt", f"still{number}.txt"):
            (folder / name).write_text(clip.caption)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
