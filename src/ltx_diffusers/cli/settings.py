"""What makes a video: the settings that `generate` checks, records beside the video, and reads back to repeat it.

No torch is imported here, so that bad input is answered at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import InputError
from ..geometry import check_video_size, nearest_valid_frames
from .conditions import LAST, GivenFile, given_file, parse_lora, parse_span

DTYPES = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
"""Names of dtypes and what they are short for."""

FITS = ("crop", "pad", "stretch")
"""Ways to bring a picture to the video's shape; see `pipelines.preparation.FITS`."""

SPEEDS = ("exact", "fast", "fastest")
"""Names of speeds; see `pipelines.speed`."""

NO_PRESET = "none"
"""The name that switches presets off."""

_MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Settings:
    """Everything that a generated video depends on. None stands for the model's default.

    Attributes:
        prompt: What the video shows.
        negative_prompt: What it should not show.
        enhance: A chat model that writes the prompt out first: a folder or repository.
        seed: Of all random draws.
        model: "embedded", a folder, a repository `owner/name`, or a checkpoint file.
        text_encoder: For a checkpoint file: folder or repository with its text encoder and tokenizer.
        version: For a checkpoint file: its release, where it can't tell.
        loras: LoRAs, LORA[:WEIGHT] each.
        images: Pictures and where they are given.
        videos: Clips and where they are given.
        extend: A video that is gone on with.
        extend_backward: A video that is led up to.
        overlap: Frames of these two that the new video shares with them, 8k + 1; 9 if None.
        join: Whether these two are written together with the new video.
        source: A video of which a part is kept; `mask`, `retake` and `outpaint` say what is made anew.
        mask: Picture or video of the source's size, white where it is made anew.
        retake: Span of time that is made anew, BEGIN-END in seconds.
        outpaint: Whether the source is fitted into the size whole, and what it leaves free is made anew.
        references: Clips beside the video, for in-context LoRAs.
        reference_scale: Pixels of the video for one of the references.
        from_video: A video to start from.
        denoise_strength: How much of it is made anew, 0 to 1.
        fit: How pictures and clips are brought to the video's shape, one of `FITS`.
        blur: Deviation in pixels of a blur of pictures and clips.
        crf: Rate factor of H.264 that pictures and clips are sent through.
        condition_noise: Noise on given tokens before each step; see `LTXConditionPipeline`.
        strength_rule: What strengths below 1 mean.
        width, height: In pixels, multiples of 32.
        num_frames: 8k + 1.
        frame_rate: Frames per second.
        preset: Name of a preset, "none", or None for that of the model.
        num_inference_steps: Denoising steps.
        guidance_scale: Classifier-free guidance; 1 turns it off.
        sampler: Name of a sampler.
        two_stage: Whether a smaller video is made first and then refined.
        upsampler: Of the latents between the two: a folder, file or repository.
        refine_strength: Share of the steps that the second pass runs.
        decode_timestep, decode_noise_scale: Noise level of a denoising decoder.
        dtype: Of the models, a key of `DTYPES`.
        speed: One of `SPEEDS`.
    """

    prompt: str
    negative_prompt: str | None = None
    enhance: str | None = None
    seed: int | None = None
    model: str = "embedded"
    text_encoder: str | None = None
    version: str | None = None
    loras: tuple[str, ...] = ()
    images: tuple[GivenFile, ...] = ()
    videos: tuple[GivenFile, ...] = ()
    extend: GivenFile | None = None
    extend_backward: GivenFile | None = None
    overlap: int | None = None
    join: bool = False
    source: GivenFile | None = None
    mask: GivenFile | None = None
    retake: str | None = None
    outpaint: bool = False
    references: tuple[GivenFile, ...] = ()
    reference_scale: float | None = None
    from_video: GivenFile | None = None
    denoise_strength: float | None = None
    fit: str | None = None
    blur: float | None = None
    crf: int | None = None
    condition_noise: float | None = None
    strength_rule: str | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    frame_rate: float | None = None
    preset: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    two_stage: bool = False
    upsampler: str | None = None
    refine_strength: float | None = None
    decode_timestep: float | None = None
    decode_noise_scale: float | None = None
    dtype: str | None = None
    speed: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from the values of a record, a line of a list, or the command line.

        Args:
            values: By the names of the fields; files as `conditions.given_file` takes them, one or a list.

        Raises:
            InputError: If there is no such field, or a file can't be read from its value.
        """
        for name in values:
            if name not in _NAMES:
                near = difflib.get_close_matches(name, _NAMES, n=1)
                raise InputError(
                    f"unknown setting {name!r}", fix=f"did you mean {near[0]}?" if near else None
                )
        if "prompt" not in values:
            raise InputError("a prompt is needed", fix='ltx-diffusers generate "a red circle moves left"')
        return cls(**{name: _read(name, value) for name, value in values.items()})

    def given_files(self) -> list[GivenFile]:
        """Every file that the video is made from."""
        single = (getattr(self, name) for name in FILES)
        lists = (getattr(self, name) for name in FILE_LISTS)
        return [file for file in single if file is not None] + [file for files in lists for file in files]

    def hashed(self) -> Settings:
        """The same with the hashes of the files.

        Raises:
            MediaError: If one can't be read.
        """
        single = {name: getattr(self, name) for name in FILES}
        hashed: dict[str, Any] = {name: file and file.hashed() for name, file in single.items()}
        hashed |= {name: tuple(file.hashed() for file in getattr(self, name)) for name in FILE_LISTS}
        return replace(self, **hashed)

    def check(self) -> None:
        """Check the values without loading anything.

        Raises:
            InputError: If a value can't be used.
            MediaError: If a file isn't the one that the video was made with.
        """
        for name in _TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name in ("prompt", "model")):
                raise InputError(f"{name} must be a text", got=repr(value))
        for name in ("join", "outpaint", "two_stage"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false", got=repr(getattr(self, name)))
        self._check_numbers()
        if (self.width is None) != (self.height is None):
            raise InputError("width and height must be given together", got=f"{self.width} and {self.height}")
        sides = {"height": self.height, "width": self.width}
        size = {name: 32 if side is None else side for name, side in sides.items()}
        check_video_size(frames=1 if self.num_frames is None else self.num_frames, **size)
        check_dtype(self.dtype)
        check_speed(self.speed)
        if self.fit is not None and self.fit not in FITS:
            raise InputError("unknown --fit", got=repr(self.fit), expected=f"one of {', '.join(FITS)}")
        self._check_combination()
        for lora in self.loras:
            parse_lora(lora)
        for file in self.given_files():
            file.check()

    def _check_combination(self) -> None:
        """Whether settings are there that others need, and none that nothing uses."""
        if self.overlap is not None and nearest_valid_frames(self.overlap) != (self.overlap,):
            near = " or ".join(map(str, nearest_valid_frames(self.overlap)))
            raise InputError("the overlap must be 8k+1 frames", got=self.overlap, fix=f"use {near}")
        if self.retake is not None:
            parse_span(self.retake)
        extends = self.extend is not None or self.extend_backward is not None
        anew = self.mask is not None or self.retake is not None or self.outpaint
        if self.source is not None and not anew:
            raise InputError("with --source say what is made anew", expected="--mask, --retake or --outpaint")
        for option, given, needed, there in (
            ("--mask, --retake and --outpaint", anew, "--source", self.source is not None),
            ("--overlap", self.overlap is not None, "--extend or --extend-backward", extends),
            ("--join", self.join, "--extend or --extend-backward", extends),
            ("--reference-scale", self.reference_scale is not None, "--reference", bool(self.references)),
            (
                "--denoise-strength",
                self.denoise_strength is not None,
                "--from-video",
                self.from_video is not None,
            ),
            ("--two-stage", self.two_stage, "--upsampler", self.upsampler is not None),
            ("--upsampler", self.upsampler is not None, "--two-stage", self.two_stage),
            ("--refine-strength", self.refine_strength is not None, "--two-stage", self.two_stage),
        ):
            if given and not there:
                raise InputError(f"{option} {'need' if ' and ' in option else 'needs'} {needed}")
        if self.outpaint and self.width is None:
            raise InputError("--outpaint needs --size", fix="give the size that the source is fitted into")
        if self.two_stage and self.from_video is not None:
            raise InputError("--two-stage starts from noise", got="--from-video", fix="leave one of them out")

    def _check_numbers(self) -> None:
        for name, (kind, low, high, range_text) in _RANGES.items():
            value = getattr(self, name)
            kinds = (int, float) if kind is float else int
            if value is not None and (
                not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high
            ):
                raise InputError(
                    f"{_SPOKEN.get(name, name)} can't be used", got=repr(value), expected=range_text
                )


FILES = ("extend", "extend_backward", "source", "mask", "from_video")
"""Settings that are one file."""

FILE_LISTS = ("images", "videos", "references")
"""Settings that are several files."""

_NAMES = tuple(field.name for field in fields(Settings))
_TEXTS = (
    "prompt",
    "negative_prompt",
    "enhance",
    "model",
    "text_encoder",
    "version",
    "retake",
    "fit",
    "strength_rule",
    "preset",
    "sampler",
    "upsampler",
    "dtype",
    "speed",
)
_LEVEL = (float, 0, 1, "a number from 0 to 1")
_COUNT = (int, 1, math.inf, "a whole number of at least 1")
_SIDE = (int, 1, math.inf, "a whole number of pixels")
_RANGES = {
    "seed": (int, 0, _MAX_SEED, f"a whole number from 0 to {_MAX_SEED}"),
    "overlap": _COUNT,
    "reference_scale": (float, 0.01, 100, "a number from 0.01 to 100"),
    "denoise_strength": (float, 1e-6, 1, "a number above 0, at most 1"),
    "blur": (float, 0, 1000, "a number of pixels from 0 to 1000"),
    "crf": (int, 0, 51, "a whole number from 0 (off) to 51"),
    "condition_noise": (float, 0, 1e6, "a number of at least 0"),
    "width": _SIDE,
    "height": _SIDE,
    "num_frames": _COUNT,
    "frame_rate": (float, 0.1, 1000, "a number from 0.1 to 1000 frames per second"),
    "num_inference_steps": _COUNT,
    "guidance_scale": (float, 0, 1e6, "a number of at least 0; 1 is off"),
    "refine_strength": (float, 1e-6, 1, "a number above 0, at most 1"),
    "decode_timestep": _LEVEL,
    "decode_noise_scale": _LEVEL,
}
_SPOKEN = {
    "frame_rate": "this frame rate (--fps)",
    "num_frames": "this number of frames (--frames)",
    "num_inference_steps": "this number of steps (--steps)",
    "guidance_scale": "this guidance (--guidance)",
    "condition_noise": "this noise (--condition-noise)",
    "denoise_strength": "this --denoise-strength",
    "refine_strength": "this --refine-strength",
}


def _read(name: str, value: Any) -> Any:
    """The value of a setting as `Settings` keeps it."""
    modifiers = {"frame": name in ("images", "videos"), "strength": name in (*FILE_LISTS, "source")}
    if name in FILES and value is not None:
        return given_file(value, name, **modifiers)
    if name not in FILE_LISTS and name != "loras":
        return value
    values = value if isinstance(value, (list, tuple)) else [value]
    if name != "loras":
        return tuple(given_file(entry, name, **modifiers) for entry in values)
    if not all(isinstance(entry, str) for entry in values):
        raise InputError("loras must be texts", got=repr(value), expected="LORA[:WEIGHT]")
    return tuple(values)


_OPTIONS = {
    "negative": "negative_prompt",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "frames": "num_frames",
    "fps": "frame_rate",
    "image": "images",
    "video": "videos",
    "reference": "references",
    "lora": "loras",
}
"""Options that are called otherwise than their settings."""


def option_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name from the options of the command line, or from those that a line of a list names.

    Args:
        given: By option, without the dashes before it; None, False and empty lists stand for options left out.

    Raises:
        InputError: If a size or a file can't be read.
    """
    values: dict[str, Any] = {}
    last = None
    for option, value in given.items():
        name = option.replace("-", "_")
        if value is None or value is False or value == []:
            continue
        if name == "size":
            values["width"], values["height"] = parse_size(str(value))
        elif name == "last":
            last = replace(given_file(value, "last", frame=False), frame=LAST)
        else:
            values[_OPTIONS.get(name, name)] = value
    if last is not None:
        images = values.get("images", [])
        images = images if isinstance(images, (list, tuple)) else [images]
        values["images"] = [*images, last]
    return values


def check_dtype(name: str | None) -> None:
    """Check the name of a dtype; None is the default one.

    Raises:
        InputError: If there is no such dtype.
    """
    if name is not None and name not in DTYPES:
        raise InputError(f"unknown dtype {name!r}", expected=f"one of {', '.join(DTYPES)}")


def check_speed(name: str | None) -> None:
    """Check the name of a speed; None is the exact one.

    Raises:
        InputError: If there is no such speed.
    """
    if name is not None and name not in SPEEDS:
        raise InputError(f"unknown speed {name!r}", expected=f"one of {', '.join(SPEEDS)}")


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels from "WxH".

    Raises:
        InputError: If the text isn't of that form.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX]\s*(\d{1,6})\s*", text)
    if match is None:
        raise InputError("the size can't be read", got=repr(text), expected="WIDTHxHEIGHT, like 704x480")
    return int(match[1]), int(match[2])
