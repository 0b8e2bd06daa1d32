"""Draw docs/assets/conditions.png: what can be given to the embedded model, a row for each way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ltx_diffusers import LTXConditionPipeline, RegionOfVideo, VideoCondition
from ltx_diffusers.data.moving_shapes import ClipSpec, render
from ltx_diffusers.data.pictures import contact_sheet
from ltx_diffusers.embedded import embedded_model_path

SIZE = (17, 96, 96)
TARGET = Path(__file__).parents[1] / "assets" / "conditions.png"


def main() -> None:
    """Make the videos and draw them, what is given above what is made."""
    pipe = LTXConditionPipeline.from_pretrained(embedded_model_path())
    pipe.set_progress_bar_config(disable=True)
    spec = ClipSpec("square", "blue", "large", "white", "right", 0.3, (0.33, 0.5), 0.35)
    clip = drawn(spec)
    still = drawn(ClipSpec("triangle", "orange", "small", "white", "still", 0.22, (0.3, 0.35), 0.0))
    keep = np.ones(SIZE[1:], bool)
    keep[:64, :64] = False
    prompt = "a large blue square moving right on a white background"
    ends = [VideoCondition(clip[0]), VideoCondition(clip[-1], frame_index=-1)]
    rows = [
        ("first and last frame", prompt, ends, shown(clip, 0, 16)),
        ("extension", prompt, VideoCondition(video=clip[:9]), shown(clip, *range(9))),
        (
            "extension backward",
            prompt,
            VideoCondition(video=clip[8:], frame_index=-1),
            shown(clip, *range(8, 17)),
        ),
        (
            "inpainting",
            "a small purple circle standing still on a white background",
            RegionOfVideo(still, keep),
            np.where(keep[..., None], still, np.uint8(127)),
        ),
    ]
    videos, titles = [], []
    for name, text, conditions, given in rows:
        generator = torch.Generator().manual_seed(0)
        made = pipe(conditions, prompt=text, generator=generator, output_type="np").frames[0]
        videos += [given, (made * 255).round().astype(np.uint8)]
        titles += [f"{name}: given", text]
    contact_sheet(videos, titles, 9, TARGET)


def drawn(spec: ClipSpec) -> np.ndarray:
    """A true clip as uint8."""
    return (render(spec, *SIZE) * 255).round().astype(np.uint8)


def shown(clip: np.ndarray, *frames: int) -> np.ndarray:
    """The clip with the frames that aren't given in gray."""
    given = np.full_like(clip, 127)
    given[list(frames)] = clip[list(frames)]
    return given


if __name__ == "__main__":
    main()
