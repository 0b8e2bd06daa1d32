"""`ltx-diffusers edit`: a video changed by a prompt, without training."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..functional.memory_size import parse_memory
from .common_options import Device, Dtype, PromptCache, Speed, VAEMemory
from .stages import Stages, peak_memory

if TYPE_CHECKING:
    import numpy as np


def command(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="The video.")],
    prompt: Annotated[str, typer.Option(help="What the video shall show, all of it.")],
    source_prompt: Annotated[
        str, typer.Option("--source-prompt", help="What it shows now; flow-edit wants it.")
    ] = "",
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Where to write it: mp4, webm, gif, or a folder of frames."),
    ] = Path("edited.mp4"),
    method: Annotated[str, typer.Option(help="flow-edit, rf-inversion, or a plugin's.")] = "flow-edit",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the method, like strength=0.8; many times."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A folder, a repository owner/name, a file, or embedded.")
    ] = "embedded",
    text_encoder: Annotated[
        str | None,
        typer.Option(help="For a checkpoint file: a folder or repository with T5 and its tokenizer."),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="For a checkpoint file: its release, like 0.9.6-dev, if it can't tell.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What the video should not show.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same video. \\[default: random]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the schedule. \\[default: the model's]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance by the prompt; 1 is off. \\[default: the model's]")
    ] = None,
    source_guidance: Annotated[
        float | None, typer.Option(help="Guidance by the source prompt. \\[default: the method's]")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            help="Resize to cover this size, cut evenly at the edges. \\[default: cut to multiples of 32]",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Use the first so many, 8k+1. \\[default: as many of them as fit 8k+1]"),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    speed: Speed = None,
    vae_memory: VAEMemory = None,
    prompt_cache: PromptCache = None,
) -> None:
    """Change a video by a prompt, without training.

    Seed and settings are written into the new video and to a JSON file beside it.
    """
    from .loading import is_verbose
    from .settings import parse_size

    with Stages() as stages:
        made = edit_file(
            source,
            output,
            EditSettings(
                prompt=prompt,
                source_prompt=source_prompt,
                method=method,
                method_settings=tuple(settings or ()),
                negative_prompt=negative,
                num_inference_steps=steps,
                guidance_scale=guidance,
                source_guidance_scale=source_guidance,
            ),
            seed=seed,
            size=None if size is None else parse_size(size),
            num_frames=frames,
            model=model,
            text_encoder=text_encoder,
            version=version,
            device=device,
            dtype=dtype,
            speed=speed,
            vae_memory=vae_memory,
            prompt_cache=prompt_cache,
            stages=stages,
            verbose=is_verbose(context),
        )
    for line in made.lines(stages):
        typer.echo(line)


@dataclass(frozen=True)
class EditSettings:
    """What to make of a video; see `LTXEditPipeline`. None is the model's or the method's default.

    Attributes:
        prompt: What the video shall show.
        source_prompt: What it shows now.
        method: Name of an editor.
        method_settings: Its settings as NAME=VALUE.
        negative_prompt: What it shall not show.
        num_inference_steps: Steps of the schedule.
        guidance_scale: By the prompt.
        source_guidance_scale: By the source prompt.
    """

    prompt: str
    source_prompt: str = ""
    method: str = "flow-edit"
    method_settings: tuple[str, ...] = ()
    negative_prompt: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    source_guidance_scale: float | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of the pipeline that say something, but for the editor."""
        names = ("negative_prompt", "num_inference_steps", "guidance_scale", "source_guidance_scale")
        given = {name: getattr(self, name) for name in names}
        texts = {"prompt": self.prompt, "source_prompt": self.source_prompt}
        return texts | {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Edited:
    """A video that was edited.

    Attributes:
        path: The file written.
        record_path: The JSON file with its settings.
        changes: What was cut from the input before, in words.
        shape: (F, H, W) of the video.
        seed: Of its noise.
        num_steps: Steps that were run.
        notes: What was done for the speed, in words.
    """

    path: Path
    record_path: Path
    changes: tuple[str, ...]
    shape: tuple[int, int, int]
    seed: int
    num_steps: int
    notes: tuple[str, ...] = ()

    def lines(self, stages: Stages) -> list[str]:
        """What to tell the user."""
        frames, height, width = self.shape
        peak = peak_memory()
        memory = "unknown" if peak is None else f"{peak / 1e9:.2f} GB"
        return [
            *self.changes,
            f"{self.path}: {frames} frames of {width}x{height}, {self.num_steps} steps, seed {self.seed} "
            f"(settings in {self.record_path})",
            *self.notes,
            f"{stages.summary()}; in all {sum(stages.seconds.values()):.1f} s; peak memory {memory}",
        ]


def edit_file(
    source: Path,
    output: Path,
    settings: EditSettings,
    *,
    seed: int | None = None,
    size: tuple[int, int] | None = None,
    num_frames: int | None = None,
    model: str = "embedded",
    text_encoder: str | None = None,
    version: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    speed: str | None = None,
    vae_memory: str | None = None,
    prompt_cache: Path | None = None,
    stages: Stages | None = None,
    verbose: bool = False,
) -> Edited:
    """Edit a video file. What can be checked without torch is checked first, and nothing written before the end.

    Args:
        source: A video or a folder of frames.
        output: The file, or the folder of frames.
        settings: What to make of it.
        seed: Of the noise; a random one if None.
        size: Width and height to fit the video to, multiples of 32; None cuts it to the next lower ones.
        num_frames: Use the first so many, 8k + 1; None uses as many as fit.
        model: As `cli.loading.find_pipeline` takes it.
        text_encoder: For a checkpoint file: where its text encoder is.
        version: For a checkpoint file: its release.
        device: "auto", or the name of a device.
        dtype: Of the models; by default float32 on the CPU and bfloat16 on a GPU.
        speed: Name of a speed; the exact one if None.
        vae_memory: What the VAE may take to encode and decode, such as "6GB"; None sets no limit.
        prompt_cache: Folder where features of prompts are kept; None keeps none.
        stages: Gets the times; a new one if None.
        verbose: Whether the warnings of the libraries below are shown.

    Raises:
        InputError: If anything given can't be used; also `MediaError` and `UnknownNameError`.
        MediaError: If the video can't be read or the output not written.
    """
    from ..data.video import write_video
    from .conditions import file_hash
    from .loading import check_device_name, find_pipeline, load_pipeline, pick_device, pick_dtype
    from .making import speed_notes
    from .reconstruct import read_fitting
    from .records import record_path, versions, write_record
    from .settings import DTYPES, check_dtype, check_speed

    check_device_name(device)
    check_dtype(dtype)
    check_speed(speed)
    budget = None if vae_memory is None else parse_memory(vae_memory)
    _check_places(source, output, size, num_frames)
    found = find_pipeline(model, text_encoder)
    stages = Stages() if stages is None else stages
    stages.begin("read")
    frames, fps, changes = read_fitting(source, False, size, num_frames)
    source_hash = file_hash(source)

    stages.begin("load")
    editor = build_editor(settings.method, settings.method_settings)
    where = pick_device(device)
    stages.wait_for(where)
    precision = pick_dtype(DTYPES.get(dtype), where)
    pipeline = load_pipeline(
        found,
        device=where,
        dtype=precision,
        class_name="LTXEditPipeline",
        text_encoder=text_encoder,
        version=version,
        vae_memory=budget,
        prompt_cache=prompt_cache,
        keep_text_encoder="auto",
        quiet=not verbose,
    )
    notes = () if speed is None else pipeline.set_speed(speed)
    seed = secrets.randbelow(2**32) if seed is None else seed
    arguments = settings.arguments() | {"frame_rate": fps, "editor": editor}
    edited = _edited(pipeline, frames, arguments, seed, stages)

    stages.begin("write")
    where_from = {"model": model, "text_encoder": text_encoder, "version": version, "speed": speed}
    record = _record(settings, editor, source, source_hash, seed, edited.shape, fps) | {
        name: value for name, value in where_from.items() if value is not None
    }
    record |= {"dtype": str(precision).removeprefix("torch."), "versions": versions()}
    path = write_video(output, edited, fps, record)
    write_record(record_path(output), record)
    steps, said = pipeline.num_timesteps, speed_notes(speed, notes, 0)
    return Edited(path, record_path(output), tuple(changes), edited.shape[:3], seed, steps, said)


def build_editor(method: str, settings: Sequence[str]) -> Any:
    """An editor by its name, with settings as text. Imports torch.

    Args:
        method: Name in `denoising.editing.editors`.
        settings: NAME=VALUE each; numbers are read as numbers.

    Raises:
        UnknownNameError: If there is no such editor.
        InputError: If it has no such setting, or a value can't be used.
    """
    from ..denoising.editing import editors
    from ..errors import InputError
    from .setup import set_up

    set_up()
    entry = editors.get(method)
    known = list(inspect.signature(entry).parameters)
    values: dict[str, Any] = {}
    for text in settings:
        name, sign, value = text.partition("=")
        if not sign or name not in known:
            raise InputError(
                f"{method} has no such setting",
                got=text,
                expected=f"NAME=VALUE with one of {', '.join(known) or '(no settings)'}",
            )
        values[name] = _number(value)
    return entry(**values)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_places(source: Path, output: Path, size: tuple[int, int] | None, num_frames: int | None) -> None:
    """Check what can be checked of the files and the size before anything is read."""
    from ..data.video import check_writable
    from ..errors import InputError, MediaError
    from ..geometry import check_video_size
    from .records import check_record_replaceable, record_path

    if not source.exists():
        raise MediaError(f"no such video: {source}")
    check_writable(output)
    if output.exists() and source.samefile(output):
        raise InputError("the output is the input", got=str(output))
    check_record_replaceable(record_path(output))
    width, height = size or (32, 32)
    check_video_size(1 if num_frames is None else num_frames, height, width)


def _edited(
    pipeline: Any, frames: np.ndarray, arguments: dict[str, Any], seed: int, stages: Stages
) -> np.ndarray:
    """The edited frames, uint8 (F, H, W, 3)."""
    import numpy as np
    import torch

    stages.begin("edit")

    def step_done(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if index == 0:  # texts and video are encoded, and how many steps there are is known
            stages.begin("edit", total=pipeline.num_timesteps)
        stages.advance()
        if index + 1 == pipeline.num_timesteps:
            stages.begin("decode")
        return {}

    step_done.only_watches = True
    made = pipeline(
        frames,
        **arguments,
        # Drawn on the CPU, so that the noise doesn't depend on the device.
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="np",
        callback_on_step_end=step_done,
    ).frames[0]
    return (made * 255).round().clip(0, 255).astype(np.uint8)


def _record(
    settings: EditSettings,
    editor: Any,
    source: Path,
    source_hash: str,
    seed: int,
    shape: tuple[int, ...],
    fps: float,
) -> dict[str, Any]:
    """What is stored of the edit beside the video and in it."""
    names = inspect.signature(type(editor)).parameters
    return settings.arguments() | {
        "command": "edit",
        "source": str(source),
        "source_sha256": source_hash,
        "method": settings.method,
        "method_settings": {name: getattr(editor, name) for name in names if hasattr(editor, name)},
        "seed": seed,
        "num_frames": shape[0],
        "height": shape[1],
        "width": shape[2],
        "frame_rate": fps,
    }
