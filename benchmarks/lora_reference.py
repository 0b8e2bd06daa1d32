"""An in-context LoRA on the embedded model: outlines become filled shapes in the colour that the prompt asks for.

Trains the LoRA as `ltx-diffusers train transformer` does, with outlines of moving-shapes as references, then makes
videos of held-out clips: with the LoRA and the reference, and without one or both. The judge reads shape, colour and
motion; `track_distance` is how far its centroid is from the true clip's, as a share of the frame's side, meant over
the frames, and `overlap` is the mean share of the shape (intersection over union) that stands where the true one does.
Run from the repository's root:

    python benchmarks/lora_reference.py --run runs/outlines --output benchmarks/results/lora_reference.json
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from lora_runs import SIZE, load_pipeline, parse_options, train, write_report, write_sheet

from ltx_diffusers import LTXConditionPipeline, ReferenceVideo
from ltx_diffusers.data.moving_shapes import BACKGROUNDS, caption
from ltx_diffusers.data.shape_clips import ShapeClip, ShapeClips
from ltx_diffusers.evaluation.judge import ShapesJudge

CONFIG = "configs/lora/outlines.yaml"
ROWS = {
    "LoRA, reference": (True, True),
    "LoRA, no reference": (True, False),
    "no LoRA, reference": (False, True),
    "no LoRA, no reference": (False, False),
}
"""Whether a row has the LoRA and the reference."""
IN_SHEET = 4


def make(pipe: LTXConditionPipeline, clip: ShapeClip, seed: int, lora: bool, reference: bool) -> np.ndarray:
    """A video for a clip's plain caption, (F, H, W, 3) in [0, 1]."""
    outline = np.round(clip.references[0] * 255).astype(np.uint8)
    return pipe(
        prompt=caption(clip.spec),
        conditions=[ReferenceVideo(video=outline)] if reference else [],
        attention_kwargs={"scale": float(lora)},
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).frames[0]


def cover(clip: ShapeClip, frames: np.ndarray) -> np.ndarray:
    """Which pixels (F, H, W) are more unlike the clip's background than half of what the true shape's are."""
    ground = np.asarray(BACKGROUNDS[clip.spec.background], np.float32)
    contrast = np.linalg.norm(frames - ground, axis=3)
    return contrast > 0.5 * np.linalg.norm(clip.frames - ground, axis=3).max()


def measure(clips: list[ShapeClip], videos: list[np.ndarray]) -> dict[str, float | None]:
    """Shares of videos that the judge finds right, and how far they are from the true clips."""
    judge = ShapesJudge()
    right: dict[str, list[bool]] = {"shape": [], "color": [], "motion": [], "all": []}
    distances, overlaps = [], []
    for clip, video in zip(clips, videos, strict=True):
        wanted, seen = judge.read(clip.frames), judge.read(video)
        for name, verdicts in right.items():
            verdicts.append(seen.right(clip.spec)[name])
        if seen.track is not None:
            distances.append(float(np.nanmean(np.linalg.norm(seen.track - wanted.track, axis=1))))
        true, made = cover(clip, clip.frames), cover(clip, video)
        overlaps.append(float((true & made).sum() / (true | made).sum()))
    return {name: round(float(np.mean(verdicts)), 3) for name, verdicts in right.items()} | {
        "track_distance": round(float(np.mean(distances)), 3) if distances else None,
        "overlap": round(float(np.mean(overlaps)), 3),
    }


def main() -> None:
    """Train, measure, and write the report and the sheet."""
    options = parse_options(__doc__.splitlines()[0], clips=24)
    training = train(CONFIG, options)
    reader = ShapeClips(*SIZE, split="held-out", seed=1, reference="outline")
    clips = [reader[number] for number in range(options.clips)]
    pipe = load_pipeline(LTXConditionPipeline, options.run / "model")
    rows, videos = {"true clip": measure(clips, [clip.frames for clip in clips])}, {}
    for name, given in ROWS.items():
        videos[name] = [make(pipe, clip, seed, *given) for seed, clip in enumerate(clips)]
        rows[name] = measure(clips, videos[name])
        sys.stderr.write(f"{name}: {rows[name]}\n")
    write_report(CONFIG, options, training, {"rows": rows})
    sheet = []
    for index, clip in enumerate(clips[:IN_SHEET]):
        sheet.append((f"reference: {caption(clip.spec)}", clip.references[0]))
        sheet += [(name, videos[name][index]) for name in list(ROWS)[: 3 if index == 0 else 1]]
    write_sheet(sheet, options.sheet)


if __name__ == "__main__":
    main()
