"""Parts of the evaluation in moving-shapes in which more is given than a first frame.

    first-and-last-frame: the motion between them must be the true one;
    extension, extension-backward: the clip's first or last 9 frames are given, and the motion must go on from there
        without a jump;
    inpainting: the box of latents where the shape stands is hidden and made anew with another colour, and the outside
        must stay as it was given;
    two-prompts: a long video of twice the length, whose prompt turns the motion round in the middle.

What is measured on the shape's path: its largest distance from the true path, and the largest difference between a
step and the true step, a jump; both as shares of the frame's side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..data.moving_shapes import COLORS, ClipSpec, caption, render
from ..geometry import CompressionRatios, VideoSize
from ..pipelines.media import RegionOfVideo, VideoCondition
from ..pipelines.pipeline_ltx_condition import LTXConditionPipeline
from ..pipelines.pipeline_ltx_long_video import LTXLongVideoPipeline
from .judge import Reading, ShapesJudge
from .reconstruction import decode_by_default, reconstruct
from .shape_cases import JudgedClip, ShapeCase, generate_cases, mean_psnr, to_bytes

Part = Callable[[Any, Sequence[ShapeCase], VideoSize, ShapesJudge], Iterator[JudgedClip]]

MOTION_BOUND = 0.05
"""Largest jump that counts as none, as a share of the frame's side; the fastest shape moves half as far a frame."""

_GIVEN_FRAMES = 9
_TURNED = {"left": "right", "right": "left", "up": "down", "down": "up", "grow": "shrink", "shrink": "grow"}
_TURNED["still"] = "shrink"
_VISIBLE = 0.02  # difference from the background that tells a true clip's object


def _first_and_last(
    pipeline: Any, batch: Sequence[ShapeCase], size: VideoSize, judge: ShapesJudge
) -> Iterator[JudgedClip]:
    def given(clip: np.ndarray) -> list[VideoCondition]:
        return [VideoCondition(image=clip[0]), VideoCondition(image=clip[-1], frame_index=-1)]

    frames = np.array([0, size.frames - 1])
    yield from _follow("first-and-last-frame", pipeline, batch, size, judge, given, frames)


def _extension(
    pipeline: Any, batch: Sequence[ShapeCase], size: VideoSize, judge: ShapesJudge
) -> Iterator[JudgedClip]:
    def given(clip: np.ndarray) -> list[VideoCondition]:
        return [VideoCondition(video=clip[:_GIVEN_FRAMES])]

    yield from _follow("extension", pipeline, batch, size, judge, given, np.arange(_GIVEN_FRAMES))


def _extension_backward(
    pipeline: Any, batch: Sequence[ShapeCase], size: VideoSize, judge: ShapesJudge
) -> Iterator[JudgedClip]:
    def given(clip: np.ndarray) -> list[VideoCondition]:
        return [VideoCondition(video=clip[-_GIVEN_FRAMES:], frame_index=-1)]

    frames = np.arange(size.frames - _GIVEN_FRAMES, size.frames)
    yield from _follow("extension-backward", pipeline, batch, size, judge, given, frames)


def _inpainting(
    pipeline: Any, batch: Sequence[ShapeCase], size: VideoSize, judge: ShapesJudge
) -> Iterator[JudgedClip]:
    pipeline = _pipeline_of(LTXConditionPipeline, pipeline)
    specs = [_standing_in_a_corner(case.spec) for case in batch]
    true = np.stack([render(spec, *size) for spec in specs])
    keep = [_around_the_object(clip, pipeline.ratios) for clip in true]
    batch = [_recolored(case, spec) for case, spec in zip(batch, specs, strict=True)]
    hidden = np.stack(
        [np.where(kept[..., None], clip, np.float32(0.5)) for clip, kept in zip(true, keep, strict=True)]
    )
    given = [[RegionOfVideo(to_bytes(clip), kept, hide=True)] for clip, kept in zip(true, keep, strict=True)]
    latents = generate_cases(pipeline, batch, size, conditions=given, output_type="latent")

    def frames(video: torch.Tensor) -> np.ndarray:
        return (video.cpu().permute(0, 2, 3, 4, 1).numpy() + 1) / 2

    # The same noise in the decoder both times, so that it makes no difference.
    video = torch.from_numpy(hidden).permute(0, 4, 1, 2, 3) * 2 - 1
    source = frames(reconstruct(pipeline.vae, video, [case.generator() for case in batch]))
    made = frames(decode_by_default(pipeline.vae, latents, [case.generator() for case in batch]))
    for case, kept, before, after in zip(batch, keep, source, made, strict=True):
        reading = judge.read(after)
        right = {"color": reading.right(case.spec)["color"]}
        outside = before[:, kept][:, :, None], after[:, kept][:, :, None]
        figures = {"outside PSNR": mean_psnr(*outside)}
        yield JudgedClip("inpainting", case, to_bytes(after), reading, right, figures)


def _two_prompts(
    pipeline: Any, batch: Sequence[ShapeCase], size: VideoSize, judge: ShapesJudge
) -> Iterator[JudgedClip]:
    pipeline = _pipeline_of(LTXLongVideoPipeline, pipeline)
    half = size.frames - 1
    for case in batch:
        turned = replace(case.spec, motion=_TURNED[case.spec.motion])
        rate = pipeline.transformer.config.default_frame_rate
        prompts = [(0.0, caption(case.spec)), (half / rate, caption(turned))]
        video = pipeline.stream(
            prompts, 2 * half + 1, height=size.height, width=size.width, generator=case.generator()
        )
        frames = np.concatenate(list(video))
        before, after = judge.read(frames[: half + 1]), judge.read(frames[half:])
        track = judge.read(frames).track
        jump = (
            1.0 if track is None else float(np.nan_to_num(np.hypot(*np.diff(track, axis=0).T), nan=1.0).max())
        )
        right = {
            "first motion": before.motion == case.spec.motion,
            "second motion": after.motion == turned.motion,
            "no jump": jump <= MOTION_BOUND,
        }
        yield JudgedClip("two-prompts", case, frames, after, right, {"jump": jump})


CONDITION_PARTS: dict[str, Part] = {
    "first-and-last-frame": _first_and_last,
    "extension": _extension,
    "extension-backward": _extension_backward,
    "inpainting": _inpainting,
    "two-prompts": _two_prompts,
}
"""The parts by name: each makes and judges the clips of a batch."""


def _follow(
    part: str,
    pipeline: Any,
    batch: Sequence[ShapeCase],
    size: VideoSize,
    judge: ShapesJudge,
    given: Callable[[np.ndarray], list[VideoCondition]],
    given_frames: np.ndarray,
) -> Iterator[JudgedClip]:
    """Make clips of which a part is given, and compare their paths with the true ones."""
    true = [to_bytes(render(case.spec, *size)) for case in batch]
    videos = generate_cases(
        _pipeline_of(LTXConditionPipeline, pipeline), batch, size, conditions=[given(clip) for clip in true]
    )
    for case, clip, frames in zip(batch, true, videos, strict=True):
        reading = judge.read(frames)
        distance, jump = _path_errors(reading, judge.read(clip))
        right = {"motion": reading.right(case.spec)["motion"], "no jump": jump <= MOTION_BOUND}
        figures = {
            "given frames PSNR": mean_psnr(clip[given_frames], to_bytes(frames[given_frames])),
            "distance from the path": distance,
            "jump": jump,
        }
        yield JudgedClip(part, case, to_bytes(frames), reading, right, figures)


def _path_errors(reading: Reading, true: Reading) -> tuple[float, float]:
    """Largest distance from the true path, and largest difference of a step from the true step; 1 if unseen."""
    if reading.track is None or not np.isfinite(reading.track).all():
        return 1.0, 1.0
    error = reading.track - true.track
    return float(np.hypot(*error.T).max()), float(np.hypot(*np.diff(error, axis=0).T).max())


def _standing_in_a_corner(spec: ClipSpec) -> ClipSpec:
    """The same shape, small and still, inside the upper left two thirds of the frame."""
    radius = min(spec.radius, 0.22)
    start = tuple(float(np.clip(value, radius, 2 / 3 - 0.03 - radius)) for value in spec.start)
    return replace(spec, size="small", motion="still", radius=radius, start=start, travel=0.0)


def _recolored(case: ShapeCase, spec: ClipSpec) -> ShapeCase:
    """The case with the next colour of the palette."""
    names = list(COLORS)
    spec = replace(spec, color=names[(names.index(spec.color) + 1) % len(names)])
    return replace(case, spec=spec, prompt=caption(spec))


def _around_the_object(clip: np.ndarray, ratios: CompressionRatios) -> np.ndarray:
    """Mask of pixels (H, W): False in the box of latents in which a true clip's object is."""
    seen = (np.abs(clip - clip[:, :1, -1:]) > _VISIBLE).any(axis=(0, 3))
    keep = np.ones(seen.shape, bool)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    top, bottom = rows[0] // ratios.height, rows[-1] // ratios.height + 1
    left, right = columns[0] // ratios.width, columns[-1] // ratios.width + 1
    keep[top * ratios.height : bottom * ratios.height, left * ratios.width : right * ratios.width] = False
    return keep


def _pipeline_of(kind: Any, pipeline: Any) -> Any:
    """A pipeline of a kind, of the same components; what isn't one of ours is called as it is."""
    if not hasattr(pipeline, "components") or isinstance(pipeline, kind):
        return pipeline
    made = kind(**pipeline.components)
    made.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    return made
