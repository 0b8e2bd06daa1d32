"""A LoRA for keyframes at frames where the embedded model has never been given any.

The embedded model was trained with pictures at frames 8 and 16 beside its video. This trains a LoRA as
`ltx-diffusers train transformer` does, with pictures at frames 4 and 12, then makes videos of held-out clips from their
captions and one true frame each, without the LoRA and with it. Measured at the frame that was given: the distance of
the shape's centroid from where the picture has it, as a share of the frame's side, and the likeness (PSNR in dB); and
over the video the largest distance from the true path, and whether the judge reads the caption's motion. Frame 8 is one
that the model knows, and "none" gives no picture.
Run from the repository's root:

    python benchmarks/lora_keyframes.py --run runs/shape-keyframes --output benchmarks/results/lora_keyframes.json
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from lora_runs import SIZE, load_pipeline, parse_options, train, write_report, write_sheet

from ltx_diffusers import LTXConditionPipeline, VideoCondition
from ltx_diffusers.data.moving_shapes import render
from ltx_diffusers.evaluation.judge import ShapesJudge
from ltx_diffusers.evaluation.shape_cases import draw_cases, generate_cases, mean_psnr, to_bytes

CONFIG = "configs/lora/shape_keyframes.yaml"
FRAMES = (4, 12, 8, None)
IN_SHEET = 2
_AT_ONCE = 8


def measure(
    pipe: LTXConditionPipeline, count: int, frame: int | None
) -> tuple[dict[str, float], list[np.ndarray], list[np.ndarray]]:
    """Figures of videos that are given one frame of the true clip; the first of the clips and of the videos."""
    judge, cases = ShapesJudge(), draw_cases(count)
    true = [to_bytes(render(case.spec, *SIZE)) for case in cases]
    given = [[] if frame is None else [VideoCondition(image=clip[frame], frame_index=frame)] for clip in true]
    videos: list[np.ndarray] = []
    for start in range(0, count, _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        videos += list(map(to_bytes, generate_cases(pipe, cases[some], SIZE, conditions=given[some])))
    values: dict[str, list[float]] = {"motion": [], "distance_from_the_path": []}
    if frame is not None:
        values |= {"distance_at_the_keyframe": [], "psnr_at_the_keyframe": []}
    for case, clip, video in zip(cases, true, videos, strict=True):
        seen, wanted = judge.read(video), judge.read(clip)
        values["motion"].append(seen.right(case.spec)["motion"])
        distance = np.ones(SIZE.frames)  # of a shape that isn't seen: the whole side
        if seen.track is not None:
            distance = np.nan_to_num(np.linalg.norm(seen.track - wanted.track, axis=1), nan=1.0)
        values["distance_from_the_path"].append(distance.max())
        if frame is not None:
            values["distance_at_the_keyframe"].append(distance[frame])
            values["psnr_at_the_keyframe"].append(mean_psnr(clip[frame][None], video[frame][None]))
    figures = {name: round(float(np.mean(numbers)), 4) for name, numbers in values.items()}
    return figures, true[:IN_SHEET], videos[:IN_SHEET]


def main() -> None:
    """Train, measure, and write the report and the sheet."""
    options = parse_options(__doc__.splitlines()[0], clips=24)
    training = train(CONFIG, options)
    pipes = {
        "base": load_pipeline(LTXConditionPipeline),
        "LoRA": load_pipeline(LTXConditionPipeline, options.run / "model"),
    }
    rows: dict[str, dict[str, Any]] = {}
    sheet: list[tuple[str, np.ndarray]] = []
    for frame in FRAMES:
        name = "none" if frame is None else f"frame {frame}"
        rows[name] = {}
        for model, pipe in pipes.items():
            rows[name][model], true, videos = measure(pipe, options.clips, frame)
            sys.stderr.write(f"{name}, {model}: {rows[name][model]}\n")
            if frame == FRAMES[0]:
                if not sheet:
                    sheet += [("true clip", clip) for clip in true]
                sheet += [(f"{model}, frame {frame} given", video) for video in videos]
    write_sheet(sheet, options.sheet)
    write_report(CONFIG, options, training, {"keyframe at": rows})


if __name__ == "__main__":
    main()
