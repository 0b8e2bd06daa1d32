"""How well a model lives in the world of moving-shapes: prompts with combinations that it was never trained on.

Its parts, each on the same held-out clips with fixed seeds and the pipeline's own settings:
    text-to-video: a prompt in a random wording is generated, and the judge says what was drawn;
    image-to-video: the same from the true clip's first frame, which must come back, and the prompted motion follow;
    vae: the true clip through the VAE and back;
    and those of `shape_conditions`: more of the true clip is given, and the rest must fit.
Every share comes with its counts and Wilson's interval, every mean with the normal one.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from PIL import Image

from .. import __version__
from ..data.moving_shapes import MOTIONS, render
from ..errors import InputError
from ..geometry import VideoSize
from ..pipelines.request import FALLBACK_SIZE
from .judge import Reading, ShapesJudge
from .metrics import ssim
from .reconstruction import reconstruct
from .shape_cases import JudgedClip, ShapeCase, draw_cases, generate_cases, mean_psnr, to_bytes
from .shape_conditions import CONDITION_PARTS
from .statistics import mean_interval, wilson_interval

PARTS = ("text-to-video", "image-to-video", "vae")
ALL_PARTS = (*PARTS, *CONDITION_PARTS)

TARGETS: dict[tuple[str, str], float] = {
    ("text-to-video", "color"): 0.97,
    ("text-to-video", "shape"): 0.90,
    ("text-to-video", "motion"): 0.95,
    ("text-to-video", "all"): 0.85,
    ("image-to-video", "first frame PSNR"): 28.0,
    ("image-to-video", "motion"): 0.90,
    ("vae", "PSNR"): 32.0,
    ("inpainting", "outside PSNR"): 40.0,
}
"""What the embedded model aims at: shares of clips, and PSNR in dB."""

_UNCLEAR = "unclear"


def default_size(pipeline: Any) -> VideoSize:
    """The size in pixels that a pipeline makes unless told otherwise, from its transformer's config."""
    config = pipeline.transformer.config
    frames, height, width = (
        config.get(f"default_{name}") or FALLBACK_SIZE[name] for name in ("num_frames", "height", "width")
    )
    return VideoSize(frames, height, width)


def evaluate_shapes(
    pipeline: Any,
    *,
    num_prompts: int = 200,
    seed: int = 0,
    parts: Sequence[str] = PARTS,
    size: VideoSize | None = None,
    motions: Sequence[str] = MOTIONS,
    batch_size: int = 10,
    image_pipeline: Any = None,
    on_clip: Callable[[JudgedClip], None] | None = None,
) -> dict[str, Any]:
    """Measure a pipeline in the world of moving-shapes.

    Args:
        pipeline: `LTXPipeline`, or anything that is called like it; the part "vae" needs its `vae`.
        num_prompts: Held-out clips.
        seed: Another seed is another set of clips, wordings and noises.
        parts: Which of `ALL_PARTS` to run.
        size: Frames, height and width in pixels; None for the size that the pipeline makes by default.
        motions: Motions that are asked for.
        batch_size: Clips that are made at a time. Every clip has its own source of noise.
        image_pipeline: The pipeline for image-to-video; made of `pipeline`'s components if None.
        on_clip: Called with each clip when it has been measured.

    Returns:
        A report that can be written as JSON: `settings`, `figures` (a list: part, name, value, interval,
        count, target, reached), `confusions` (per part and property: wanted, read, count), `failures` and `seconds`.

    Raises:
        InputError: If a part or motion is unknown, there are none, or a number isn't positive.
    """
    _check(num_prompts, parts, batch_size)
    cases = draw_cases(num_prompts, seed, tuple(motions))
    if size is None:
        size = default_size(pipeline)
    clips: list[JudgedClip] = []
    seconds: dict[str, float] = {}
    for part in (part for part in ALL_PARTS if part in parts):
        start = time.perf_counter()
        for clip in _run(part, pipeline, image_pipeline, cases, size, batch_size):
            # The frames belong to the caller; 200 clips of them are not kept here.
            clips.append(JudgedClip(part, clip.case, clip.frames[:0], clip.reading, clip.right, clip.figures))
            if on_clip is not None:
                on_clip(clip)
        seconds[part] = round(time.perf_counter() - start, 3)
    return {
        "world": "moving-shapes",
        "split": "held-out",
        "settings": {
            "num_prompts": num_prompts,
            "seed": seed,
            "batch_size": batch_size,
            "size": size._asdict(),
            "motions": list(motions),
            **_environment(pipeline),
        },
        "figures": [figure for part in seconds for figure in _figures(part, clips)],
        "confusions": {part: _confusions(part, clips) for part in seconds if part != "vae"},
        "failures": [_failure(clip) for clip in clips if not all(clip.right.values())],
        "seconds": seconds,
    }


def _check(num_prompts: int, parts: Sequence[str], batch_size: int) -> None:
    for name, value in (("num_prompts", num_prompts), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} must be positive", got=value)
    unknown = [part for part in parts if part not in ALL_PARTS]
    if unknown or not parts:
        raise InputError(
            "unknown part of the evaluation",
            got=unknown or "none",
            expected=f"some of {', '.join(ALL_PARTS)}",
        )


def _run(
    part: str,
    pipeline: Any,
    image_pipeline: Any,
    cases: Sequence[ShapeCase],
    size: VideoSize,
    batch_size: int,
) -> Iterator[JudgedClip]:
    judge = ShapesJudge()
    if part == "image-to-video" and image_pipeline is None:
        image_pipeline = _image_pipeline(pipeline)
    for start in range(0, len(cases), batch_size):
        batch = cases[start : start + batch_size]
        if part == "text-to-video":
            yield from _text_to_video(pipeline, batch, size, judge)
        elif part == "image-to-video":
            yield from _image_to_video(image_pipeline, batch, size, judge)
        elif part == "vae":
            yield from _through_vae(pipeline.vae, batch, size)
        else:
            yield from CONDITION_PARTS[part](pipeline, batch, size, judge)


def _text_to_video(
    pipeline: Any, batch: Sequence[ShapeCase], size: VideoSize, judge: ShapesJudge
) -> Iterator[JudgedClip]:
    for case, frames in zip(batch, generate_cases(pipeline, batch, size), strict=True):
        reading = judge.read(frames)
        right = reading.right(case.spec)
        right = {name: right[name] for name in ("color", "shape", "motion", "all")}
        yield JudgedClip("text-to-video", case, to_bytes(frames), reading, right)


def _image_to_video(
    pipeline: Any, batch: Sequence[ShapeCase], size: VideoSize, judge: ShapesJudge
) -> Iterator[JudgedClip]:
    firsts = [to_bytes(render(case.spec, *size)[0]) for case in batch]
    videos = generate_cases(pipeline, batch, size, image=[Image.fromarray(first) for first in firsts])
    for case, first, frames in zip(batch, firsts, videos, strict=True):
        reading = judge.read(frames)
        right = {"motion": reading.right(case.spec)["motion"]}
        figures = {"first frame PSNR": mean_psnr(first[None], frames[:1])}
        yield JudgedClip("image-to-video", case, to_bytes(frames), reading, right, figures)


def _through_vae(vae: Any, batch: Sequence[ShapeCase], size: VideoSize) -> Iterator[JudgedClip]:
    true = np.stack([render(case.spec, *size) for case in batch])
    video = torch.from_numpy(true).permute(0, 4, 1, 2, 3) * 2 - 1
    decoded = reconstruct(vae, video, [case.generator() for case in batch])
    decoded = (decoded.cpu().permute(0, 2, 3, 4, 1).numpy() + 1) / 2
    for case, before, after in zip(batch, true, decoded, strict=True):
        figures = {
            "PSNR": mean_psnr(before, after),
            "SSIM": float(np.mean(ssim(before, np.nan_to_num(after)))),
        }
        yield JudgedClip("vae", case, to_bytes(after), figures=figures)


def _image_pipeline(pipeline: Any) -> Any:
    from ..pipelines.pipeline_ltx_image2video import LTXImageToVideoPipeline

    image_pipeline = LTXImageToVideoPipeline(**pipeline.components)
    image_pipeline.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    return image_pipeline


def _figures(part: str, clips: Sequence[JudgedClip]) -> list[dict[str, Any]]:
    """The rows of the table that belong to a part."""
    own = [clip for clip in clips if clip.part == part]
    rows = []
    for name in own[0].figures:
        values = [clip.figures[name] for clip in own]
        row = {"unit": "dB" if "PSNR" in name else "", "value": float(np.mean(values)), "count": len(own)}
        rows.append((name, {**row, "interval": mean_interval(values), "lowest": min(values)}))
    for name in own[0].right:
        right = sum(clip.right[name] for clip in own)
        row = {"unit": "share", "value": right / len(own), "right": right, "count": len(own)}
        rows.append((name, {**row, "interval": wilson_interval(right, len(own))}))
    return [{"part": part, "name": name, **row, **_target(part, name, row["value"])} for name, row in rows]


def _target(part: str, name: str, value: float) -> dict[str, Any]:
    target = TARGETS.get((part, name))
    return {} if target is None else {"target": target, "reached": value >= target}


def _confusions(part: str, clips: Sequence[JudgedClip]) -> dict[str, list[dict[str, Any]]]:
    """What was read instead of what was wanted, most frequent first."""
    own = [clip for clip in clips if clip.part == part]
    tables = {}
    for name in (name for name in own[0].right if hasattr(Reading, name)):
        pairs = Counter(
            (getattr(clip.case.spec, name), getattr(clip.reading, name) or _UNCLEAR)
            for clip in own
            if not clip.right[name]
        )
        tables[name] = [
            {"wanted": wanted, "read": read, "count": count} for (wanted, read), count in pairs.most_common()
        ]
    return tables


def _failure(clip: JudgedClip) -> dict[str, Any]:
    names = ("shape", "color", "background", "motion")
    return {
        "part": clip.part,
        "index": clip.case.index,
        "prompt": clip.case.prompt,
        "seed": clip.case.seed,
        "wanted": {name: getattr(clip.case.spec, name) for name in names},
        "read": {name: getattr(clip.reading, name) for name in names},
        "wrong": [name for name, right in clip.right.items() if not right and name != "all"],
    }


def _environment(pipeline: Any) -> dict[str, str]:
    versions = {name: metadata.version(name) for name in ("torch", "diffusers")}
    return {
        "pipeline": type(pipeline).__name__,
        "device": str(getattr(pipeline, "device", "cpu")),
        "dtype": str(getattr(pipeline, "dtype", "")).removeprefix("torch."),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "ltx_diffusers": __version__,
        **versions,
    }
