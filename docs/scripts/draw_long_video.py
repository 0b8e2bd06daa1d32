"""Draw docs/assets/long_video.png: a long video of the embedded model with four prompts, a row for each span."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ltx_diffusers import LTXLongVideoPipeline
from ltx_diffusers.data.pictures import contact_sheet
from ltx_diffusers.embedded import embedded_model_path

SECONDS, RATE = 2, 8
TARGET = Path(__file__).parents[1] / "assets" / "long_video.png"


def main() -> None:
    """Make the video and draw it."""
    prompts = [
        (SECONDS * span, f"a large red circle moving {side} on a black background")
        for span, side in enumerate(("right", "left", "right", "left"))
    ]
    pipe = LTXLongVideoPipeline.from_pretrained(embedded_model_path())
    generator = torch.Generator().manual_seed(0)
    video = pipe.stream(prompts, SECONDS * RATE * len(prompts) + 1, generator=generator)
    frames = np.concatenate(list(video))
    length = SECONDS * RATE
    rows = [frames[length * row : length * (row + 1) + 1] for row in range(len(prompts))]
    titles = [f"from {second} s: {text}" for second, text in prompts]
    contact_sheet(rows, titles, 9, TARGET)


if __name__ == "__main__":
    main()
