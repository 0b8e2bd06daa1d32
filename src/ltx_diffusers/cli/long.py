"""`ltx-diffusers long`: a video of any length, with a prompt for each span of time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, MediaError
from .common_options import Device, Dtype, PromptCache, Speed, VAEMemory
from .long_making import COMMAND, LongSettings, make_long, windows_folder
from .making import default_output
from .records import GENERATE, read_record, settings_of_record
from .settings import Settings, option_values
from .stages import Stages

_PROMPT_AT = "SECONDS:PROMPT"


def command(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What the video shows at its start.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where to write it; the ending gives the format. \\[default: out.mp4]"
        ),
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Length, brought to 8k+1 frames.")] = None,
    frames: Annotated[int | None, typer.Option(help="Length in frames, 8k+1.")] = None,
    prompt_at: Annotated[
        list[str] | None,
        typer.Option(metavar=_PROMPT_AT, help="What it shows from a time on; many times."),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help=f"All prompts: lines of {_PROMPT_AT}, the first at 0.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Frames made at once, 8k+1. \\[default: the model's]")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Frames that each window is given of those before, 8k+1. "
            "\\[default: 25, or a quarter of the window]"
        ),
    ] = None,
    overlap_strength: Annotated[
        float | None, typer.Option(help="How strongly; below 1 they are made again and faded. \\[default: 1]")
    ] = None,
    drift_control: Annotated[
        float | None,
        typer.Option(help="Hold colours and contrast to the first window's, 0 to 1. \\[default: 0]"),
    ] = None,
    anchor: Annotated[
        float | None,
        typer.Option(help="Give the first frame to every window, with this strength. \\[default: 0]"),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[@FRAME][:STRENGTH]", help="A picture at any frame; many times."),
    ] = None,
    video: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[@FRAME][:STRENGTH]", help="A clip at any frame; many times."),
    ] = None,
    extend: Annotated[
        str | None, typer.Option(metavar="FILE", help="Go on with this video: its last frames are the first.")
    ] = None,
    from_video: Annotated[
        str | None, typer.Option(metavar="FILE", help="Start from this long video instead of noise.")
    ] = None,
    denoise_strength: Annotated[
        float | None, typer.Option(help="How much of --from-video is made anew. \\[default: 0.6]")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What the video should not show.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same video. \\[default: random]")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Steps and guidance of a release, or none. \\[default: the model's]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps of each window. \\[default: the model's]")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance; 1 is off.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Name of a sampler; see generate.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="In pixels, multiples of 32, like 704x480.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A folder, a repository owner/name, a file, or embedded. \\[default: embedded]"),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="For a checkpoint file: a folder or repository with T5 and its tokenizer."),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="For a checkpoint file: its release, like 0.9.6-dev, if it can't tell.")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="LORA[:WEIGHT]", help="A LoRA to use; many times.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="mp4, webm, gif, or frames (a folder of PNG files). \\[default: mp4]")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    speed: Speed = None,
    vae_memory: VAEMemory = None,
    prompt_cache: PromptCache = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Throw away what an interrupted run has left.")
    ] = False,
    from_json: Annotated[
        Path | None,
        typer.Option(help="Make a long video again from its JSON or from the video; options override it."),
    ] = None,
) -> None:
    """Make a video longer than the model makes at once, window by window.

    It is written while it is made. Finished windows are kept beside it until it is whole: after an interruption the
    same command goes on where it was.
    """
    from .loading import is_verbose

    names = (
        "image",
        "video",
        "extend",
        "from_video",
        "denoise_strength",
        "negative",
        "seed",
        "preset",
        "steps",
    )
    names += (
        "guidance",
        "sampler",
        "size",
        "fps",
        "frames",
        "model",
        "text_encoder",
        "version",
        "lora",
        "dtype",
        "speed",
    )
    options = locals()
    given = option_values({name: options[name] for name in names})
    windowing = {
        "window_frames": window,
        "overlap_frames": overlap,
        "overlap_strength": overlap_strength,
        "drift_control": drift_control,
        "anchor_strength": anchor,
    }
    windowing = {name: value for name, value in windowing.items() if value is not None}
    stored, stored_prompts, stored_windowing = _stored(from_json)
    prompts = read_prompts(prompt, prompt_at or [], prompts_file) or stored_prompts
    if not prompts:
        raise InputError("a prompt is needed", fix='ltx-diffusers long "a red circle at rest" --seconds 20')
    if seconds is not None:
        stored.pop("num_frames", None)
    settings = LongSettings(
        common=Settings.of(stored | given | {"prompt": prompts[0][1]}),
        prompts=tuple(prompts),
        seconds=seconds,
        **stored_windowing | windowing,
    )
    output = default_output(output, format)
    try:
        with Stages() as stages:
            made = make_long(
                settings,
                output,
                format=format,
                device=device,
                vae_memory=vae_memory,
                prompt_cache=prompt_cache,
                anew=anew,
                stages=stages,
                verbose=is_verbose(context),
            )
    except KeyboardInterrupt:
        if windows_folder(output).is_dir():
            typer.echo(
                f"the finished windows are in {windows_folder(output)}; the same command goes on", err=True
            )
        raise
    typer.echo(made.summary(stages))


def read_prompts(prompt: str | None, prompt_at: Sequence[str], file: Path | None) -> list[tuple[float, str]]:
    """Prompts and the seconds at which they begin, by time.

    Args:
        prompt: The first one.
        prompt_at: SECONDS:PROMPT each.
        file: With lines of that form; empty ones and those that begin with # don't count.

    Raises:
        InputError: If a time can't be read, is given twice, or the first isn't 0.
        MediaError: If the file can't be read.
    """
    texts = list(prompt_at)
    if file is not None:
        if prompt is not None or texts:
            raise InputError("--prompts-file has all prompts", fix="give them there or on the command line")
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MediaError(f"{file} can't be read", got=error) from error
        texts = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not texts:
            raise InputError(f"{file} has no prompts", expected=f"lines of {_PROMPT_AT}")
    prompts = [] if prompt is None else [(0.0, prompt)]
    prompts += [_timed(text) for text in texts]
    prompts.sort(key=lambda pair: pair[0])
    times = [time for time, _ in prompts]
    if len(set(times)) < len(times):
        raise InputError("two prompts begin at the same time", got=", ".join(f"{time:g} s" for time in times))
    if times and times[0] != 0:
        raise InputError("no prompt begins at 0 seconds", got=f"the first at {times[0]:g} s")
    return prompts


def _timed(text: str) -> tuple[float, str]:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*:\s*(.*\S)\s*", text, re.DOTALL)
    if match is None:
        raise InputError("a prompt and its time can't be read", got=repr(text), expected=_PROMPT_AT)
    return float(match[1]), match[2]


def _stored(path: Path | None) -> tuple[dict[str, Any], list[tuple[float, str]], dict[str, Any]]:
    """What a record says: common settings, prompts, and how the windows go on."""
    if path is None:
        return {}, [], {}
    record = read_record(path, (GENERATE, COMMAND))
    pairs = record.get("prompts")
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"{path} isn't the record of a long video", fix="use generate --from-json")
    names = ("window_frames", "overlap_frames", "overlap_strength", "drift_control", "anchor_strength")
    return (
        settings_of_record(record),
        [(time, text) for time, text in pairs],
        {n: record[n] for n in names if n in record},
    )
