"""Long videos from settings: everything checked first, then made window by window and written as they come."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..functional.memory_size import parse_memory
from ..geometry import LTX_RATIOS, VideoSize, nearest_valid_frames
from .given_media import DEFAULT_DENOISE_STRENGTH, Media, build_arguments, follow, read_media
from .making import speed_notes
from .records import check_not_given, check_record_replaceable, record_of, record_path, write_record
from .settings import DTYPES, NO_PRESET, Settings
from .stages import Stages, peak_memory

if TYPE_CHECKING:
    from ..pipelines.long_video import LongVideo

_RESUME_FILE = "settings.json"


COMMAND = "long"
"""What records of long videos say they were made by."""


@dataclass(frozen=True)
class LongSettings:
    """What a long video is made from, besides what every video is. None stands for the pipeline's default.

    Attributes:
        common: Settings of every video; their prompt is the first one, their number of frames that of the whole.
        prompts: Second and text of each prompt, the first at 0.
        seconds: Length, where no number of frames is given.
        window_frames: Made at once, 8k + 1.
        overlap_frames: Given to each window of those before it, 8k + 1.
        overlap_strength: How strongly, above 0 to 1.
        drift_control: How far later windows are held to the statistics of the first, 0 to 1.
        anchor_strength: How strongly the first frame is given to every later window, 0 to 1.
    """

    common: Settings
    prompts: tuple[tuple[float, str], ...]
    seconds: float | None = None
    window_frames: int | None = None
    overlap_frames: int | None = None
    overlap_strength: float = 1.0
    drift_control: float = 0.0
    anchor_strength: float = 0.0

    def check(self) -> None:
        """Check what can be checked without loading anything.

        Raises:
            InputError: If a value can't be used.
            MediaError: If a file isn't the one that the video was made with.
        """
        self.common.check()
        for option, value in (("--window", self.window_frames), ("--overlap", self.overlap_frames)):
            if value is not None and nearest_valid_frames(value) != (value,):
                near = " or ".join(map(str, nearest_valid_frames(value)))
                raise InputError(f"{option} must be 8k+1 frames", got=value, fix=f"use {near}")
        if self.seconds is not None and not 0 < self.seconds < 1e6:
            raise InputError(
                "this length (--seconds) can't be used", got=self.seconds, expected="more than 0"
            )
        if self.seconds is not None and self.common.num_frames is not None:
            raise InputError("the length was given twice", expected="--seconds or --frames")
        if self.seconds is None and self.common.num_frames is None and self.common.from_video is None:
            raise InputError("a long video needs its length", fix="give --seconds or --frames")

    def windowing(self) -> dict[str, Any]:
        """What says how the windows lie and go on from each other."""
        names = (field.name for field in fields(self) if field.name not in ("common", "prompts", "seconds"))
        return {name: getattr(self, name) for name in names}

    def record(self) -> dict[str, Any]:
        """What is stored of it, and the versions that made it."""
        own = {name: value for name, value in self.windowing().items() if value is not None}
        prompts = [list(pair) for pair in self.prompts]
        return {"command": COMMAND} | record_of(self.common) | {"prompts": prompts} | own


@dataclass(frozen=True)
class MadeLong:
    """A long video that was made.

    Attributes:
        path: Where it is.
        record_path: Where its record is.
        settings: With nothing left open.
        num_windows: How many windows it has.
        num_steps: Denoising steps of each.
        peak_bytes: Most main memory held, None where the system can't say.
        notes: What was done for the speed, in words.
    """

    path: Path
    record_path: Path
    settings: LongSettings
    num_windows: int
    num_steps: int
    peak_bytes: int | None
    notes: tuple[str, ...] = ()

    def summary(self, stages: Stages) -> str:
        """What was made, how long it took and how much memory was needed, in two lines, and of the speed."""
        made = self.settings.common
        memory = "unknown" if self.peak_bytes is None else f"{self.peak_bytes / 1e9:.2f} GB"
        windows = "1 window" if self.num_windows == 1 else f"{self.num_windows} windows"
        return (
            f"{self.path}: {made.num_frames} frames ({made.num_frames / made.frame_rate:.1f} s) of "
            f"{made.width}x{made.height} at {made.frame_rate:g} fps, {windows} of {self.num_steps} steps, "
            f"seed {made.seed} (settings in {self.record_path})\n"
            f"{stages.summary()}; in all {sum(stages.seconds.values()):.1f} s; peak memory {memory}"
        ) + "".join(f"\n{note}" for note in self.notes)


def windows_folder(output: Path) -> Path:
    """Where the finished windows of a video are kept until it is whole."""
    return output.with_name(f"{output.name}.windows")


def make_long(
    settings: LongSettings,
    output: Path,
    *,
    format: str | None = None,
    device: str = "auto",
    vae_memory: str | None = None,
    prompt_cache: Path | None = None,
    anew: bool = False,
    stages: Stages | None = None,
    verbose: bool = False,
) -> MadeLong:
    """Make a long video file. Everything that can be checked without torch is checked first, and nothing written.

    Args:
        settings: What to make; what is None is taken from the model, a random seed is drawn.
        output: The file, or the folder of frames.
        format: As `data.video.write_video` takes it.
        device: "auto", or the name of a device.
        vae_memory: What the VAE may take to encode and decode, such as "6GB"; None sets no limit.
        prompt_cache: Folder where features of prompts are kept; None keeps none.
        anew: Whether windows that an interrupted run has left are thrown away.
        stages: Gets the times; a new one if None.
        verbose: Whether the warnings of the libraries below are shown.

    Raises:
        InputError: If anything given can't be used; also `MediaError` and `UnknownNameError`.
        MediaError: If the output can't be written.
    """
    from ..data.frame_stream import FrameStream
    from ..data.video import check_writable, write_video
    from .loading import check_device_name, find_pipeline, load_loras, load_pipeline, pick_device, pick_dtype

    settings.check()
    budget = None if vae_memory is None else parse_memory(vae_memory)
    format = check_writable(output, format)
    check_not_given(output, settings.common)
    record_file = record_path(output)
    check_record_replaceable(record_file)
    common = settings.common
    media = read_media(common)
    check_device_name(device)
    source = find_pipeline(common.model, common.text_encoder)
    folder = windows_folder(output)
    if anew:
        _throw_away(folder)
    common = replace(follow(common.hashed(), media), seed=_seed(common, folder))
    if settings.seconds is not None:  # and not the length of a video to start from
        common = replace(common, num_frames=None)

    stages = Stages() if stages is None else stages
    stages.begin("load")
    where = pick_device(device)
    dtype = pick_dtype(DTYPES.get(common.dtype), where)
    pipeline = load_pipeline(
        source,
        class_name="LTXLongVideoPipeline",
        device=where,
        dtype=dtype,
        text_encoder=common.text_encoder,
        version=common.version,
        vae_memory=budget,
        prompt_cache=prompt_cache,
        keep_text_encoder="auto",
        quiet=not verbose,
    )
    load_loras(pipeline, common.loras)
    notes = () if common.speed is None else pipeline.set_speed(common.speed)
    settings = _resolved(
        pipeline, replace(settings, common=replace(common, dtype=str(dtype).removeprefix("torch.")))
    )
    progress = _Progress(stages)
    video = _planned(pipeline, settings, media, folder, progress)
    write_record(folder / _RESUME_FILE, {"seed": common.seed})
    progress.video = video
    settings = _as_it_runs(settings, video)

    stages.begin("make")
    made = settings.common
    record = settings.record()
    frames = FrameStream(video, video.num_frames, made.height, made.width)
    path = write_video(output, frames, made.frame_rate, record, format)
    write_record(record_file, record)
    _throw_away(folder)
    steps = progress.steps or video.request.num_inference_steps  # none were left to do
    said = speed_notes(common.speed, notes, 0)
    return MadeLong(path, record_file, settings, len(video.windows), steps, peak_memory(), said)


class _Progress:
    """Called after each step of each window: shows them all as one stage.

    Args:
        stages: Where they are shown.

    Attributes:
        video: What is made.
        steps: Steps of a window.
    """

    only_watches = True

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._shown: int | None = None
        self.video: LongVideo | None = None
        self.steps = 0

    def __call__(self, pipeline: Any, index: int, timestep: Any, tensors: dict) -> dict:
        """After the step `index` of the current window."""
        self.steps = pipeline.num_timesteps
        if self._shown is None:
            self._stages.begin("make", total=len(self.video.windows) * self.steps)
            self._shown = 0
        done = self.video.current * self.steps + index + 1  # windows on the disk count, too
        while self._shown < done:
            self._stages.advance()
            self._shown += 1
        return {}


def _resolved(pipeline: Any, settings: LongSettings) -> LongSettings:
    """The settings with size, rate, length and preset as the model has them."""
    from ..pipelines.presets import preset_of

    common = settings.common
    request = pipeline._prepared_call(
        {
            "prompt": "",
            "width": common.width,
            "height": common.height,
            "frame_rate": common.frame_rate,
            "num_frames": settings.window_frames,
            "preset": None,
        }
    )
    changes: dict[str, Any] = {
        name: getattr(request, name)
        for name in ("width", "height", "frame_rate", "decode_timestep", "decode_noise_scale")
        if getattr(common, name) is None
    }
    if common.num_frames is None:
        ratio = LTX_RATIOS.time
        changes["num_frames"] = max(0, round((settings.seconds * request.frame_rate - 1) / ratio)) * ratio + 1
    if common.from_video is not None and common.denoise_strength is None:
        changes["denoise_strength"] = DEFAULT_DENOISE_STRENGTH
    if common.preset is None:
        preset = preset_of(pipeline.transformer.config, pipeline.scheduler.config)
        changes["preset"] = NO_PRESET if preset is None else preset.name
    windows = {} if settings.window_frames is not None else {"window_frames": request.num_frames}
    return replace(settings, common=replace(common, **changes), **windows)


def _planned(
    pipeline: Any, settings: LongSettings, media: Media, folder: Path, progress: _Progress
) -> LongVideo:
    """The video with everything checked, nothing computed yet."""
    import torch

    common = settings.common
    size = VideoSize(common.num_frames, common.height, common.width)
    names = (
        "negative_prompt",
        "width",
        "height",
        "frame_rate",
        "num_inference_steps",
        "guidance_scale",
        "sampler",
        "decode_timestep",
        "decode_noise_scale",
    )
    call = {name: getattr(common, name) for name in names}
    call |= build_arguments(common, media, size, common.frame_rate)
    if common.condition_noise is not None:
        call["image_cond_noise_scale"] = common.condition_noise
    return pipeline.stream(
        list(settings.prompts),
        common.num_frames,
        **settings.windowing(),
        **call,
        preset=None if common.preset == NO_PRESET else common.preset,
        # Drawn on the CPU, so that the noise doesn't depend on the device.
        generator=torch.Generator("cpu").manual_seed(common.seed),
        resume_folder=folder,
        callback_on_step_end=progress,
        callback_on_step_end_tensor_inputs=[],
    )


def _as_it_runs(settings: LongSettings, video: LongVideo) -> LongSettings:
    """The settings with steps and guidance from the model, where no preset says them."""
    if settings.common.preset != NO_PRESET:
        return settings
    names = ("num_inference_steps", "guidance_scale")
    return replace(
        settings,
        common=replace(settings.common, **{name: getattr(video.request, name) for name in names}),
    )


def _seed(common: Settings, folder: Path) -> int:
    """The seed: as given, that of the interrupted run, or a random one."""
    if common.seed is not None:
        return common.seed
    try:
        stored = json.loads((folder / _RESUME_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = None
    if isinstance(stored, Mapping) and isinstance(stored.get("seed"), int):
        return stored["seed"]
    return secrets.randbelow(2**32)


def _throw_away(folder: Path) -> None:
    """Delete the windows of a video; a folder with anything else in it is left alone."""
    if folder.is_dir() and all(_is_ours(path) for path in folder.iterdir()):
        shutil.rmtree(folder)


def _is_ours(path: Path) -> bool:
    from ..pipelines.window_files import PLAN_FILE

    return (
        path.name in (PLAN_FILE, _RESUME_FILE)
        or path.match("*window_*.safetensors*")
        or path.match(".*.part")
    )
