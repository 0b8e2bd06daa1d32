"""`ltx-diffusers generate`: a video from a prompt and whatever else is given, or many from a file of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, MediaError
from .batch import read_jobs, run_batch
from .common_options import Device, Dtype, PromptCache, Speed, VAEMemory
from .making import Maker, default_output
from .records import read_settings
from .settings import Settings, option_values
from .stages import Stages

_GIVEN = "What is given"
_SAMPLING = "How it is made"
_STAGES = "Two stages"
_PLACE = "FILE[@FRAME][:STRENGTH]"


def _option(help: str, *names: str, panel: str = "Options", metavar: str | None = None) -> Any:
    """An option of the command; one word of how it is called by default is enough, Typer knows the rest."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


def command(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.")] = None,
    output: Annotated[
        Path | None,
        _option(
            "Where to write it; the ending gives the format. With --prompts-file a folder. \\[default: out.mp4]",
            "-o",
            "--output",
        ),
    ] = None,
    model: Annotated[
        str | None,
        _option("A folder, a repository owner/name, a file, or embedded. \\[default: embedded]"),
    ] = None,
    text_encoder: Annotated[
        str | None, _option("For a checkpoint file: a folder or repository with T5 and its tokenizer.")
    ] = None,
    version: Annotated[
        str | None, _option("For a checkpoint file: its release, like 0.9.6-dev, if it can't tell.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        _option("A LoRA: a file, folder or repository; many times.", metavar="LORA[:WEIGHT]"),
    ] = None,
    image: Annotated[
        list[str] | None,
        _option(
            "A picture, by default the first frame; FRAME is a number or last; many times.",
            panel=_GIVEN,
            metavar=_PLACE,
        ),
    ] = None,
    last: Annotated[
        str | None, _option("The last frame: --image FILE@last.", panel=_GIVEN, metavar="FILE[:STRENGTH]")
    ] = None,
    video: Annotated[
        list[str] | None,
        _option(
            "A clip that begins at a frame, or ends with the last; many times.", panel=_GIVEN, metavar=_PLACE
        ),
    ] = None,
    extend: Annotated[
        str | None,
        _option("Go on with this video: its last frames are the first.", panel=_GIVEN, metavar="FILE"),
    ] = None,
    extend_backward: Annotated[
        str | None,
        _option("Lead up to this video: its first frames are the last.", panel=_GIVEN, metavar="FILE"),
    ] = None,
    overlap: Annotated[
        int | None, _option("Frames shared with a video that is extended, 8k+1. \\[default: 9]", panel=_GIVEN)
    ] = None,
    join: Annotated[
        bool, _option("Write the extended video and the new one as one.", "--join", panel=_GIVEN)
    ] = False,
    source: Annotated[
        str | None,
        _option(
            "A video of which a part is kept and the rest made anew.", panel=_GIVEN, metavar="FILE[:STRENGTH]"
        ),
    ] = None,
    mask: Annotated[
        str | None,
        _option(
            "With --source: a picture or video, white where it is made anew.", panel=_GIVEN, metavar="FILE"
        ),
    ] = None,
    retake: Annotated[
        str | None,
        _option("With --source: the seconds that are made anew.", panel=_GIVEN, metavar="BEGIN-END"),
    ] = None,
    outpaint: Annotated[
        bool,
        _option(
            "With --source: fit it into --size whole, and make what is free.", "--outpaint", panel=_GIVEN
        ),
    ] = False,
    reference: Annotated[
        list[str] | None,
        _option(
            "A clip beside the video, for an in-context LoRA; many times.",
            panel=_GIVEN,
            metavar="FILE[:STRENGTH]",
        ),
    ] = None,
    reference_scale: Annotated[
        float | None, _option("Pixels of the video for one of the reference. \\[default: 1]", panel=_GIVEN)
    ] = None,
    from_video: Annotated[
        str | None, _option("Start from this video instead of noise.", panel=_GIVEN, metavar="FILE")
    ] = None,
    denoise_strength: Annotated[
        float | None,
        _option("How much of --from-video is made anew, up to 1. \\[default: 0.6]", panel=_GIVEN),
    ] = None,
    fit: Annotated[
        str | None,
        _option("How files get the video's shape: crop, pad or stretch. \\[default: crop]", panel=_GIVEN),
    ] = None,
    blur: Annotated[
        float | None, _option("Blur given pictures and clips by so many pixels.", panel=_GIVEN)
    ] = None,
    crf: Annotated[
        int | None,
        _option(
            "Send them through H.264 at this rate factor, against videos that stand still.", panel=_GIVEN
        ),
    ] = None,
    condition_noise: Annotated[
        float | None, _option("Noise on what is given, for the same end. \\[default: 0.15]", panel=_GIVEN)
    ] = None,
    strength_rule: Annotated[
        str | None, _option("What strengths below 1 mean: official or proportional.", panel=_GIVEN)
    ] = None,
    negative: Annotated[str | None, _option("What the video should not show.", panel=_SAMPLING)] = None,
    enhance: Annotated[
        str | None,
        _option(
            "Let a chat model of transformers write the prompt out: a folder or repository.",
            panel=_SAMPLING,
            metavar="MODEL",
        ),
    ] = None,
    seed: Annotated[
        int | None, _option("The same seed gives the same video. \\[default: random]", panel=_SAMPLING)
    ] = None,
    preset: Annotated[
        str | None,
        _option(
            "Steps and guidance of a release, or none; see info. \\[default: the model's]", panel=_SAMPLING
        ),
    ] = None,
    steps: Annotated[
        int | None, _option("Denoising steps. \\[default: the model's, as for all below]", panel=_SAMPLING)
    ] = None,
    guidance: Annotated[float | None, _option("Classifier-free guidance; 1 is off.", panel=_SAMPLING)] = None,
    sampler: Annotated[
        str | None,
        _option("euler, euler-ancestral, heun, res-2s, gradient-estimation, stochastic.", panel=_SAMPLING),
    ] = None,
    size: Annotated[
        str | None, _option("In pixels, multiples of 32, like 704x480.", panel=_SAMPLING, metavar="WxH")
    ] = None,
    frames: Annotated[int | None, _option("8k+1: 9, 17, 25, ...", panel=_SAMPLING)] = None,
    fps: Annotated[float | None, _option("Frames per second.", panel=_SAMPLING)] = None,
    two_stage: Annotated[
        bool, _option("Make it smaller first, upsample it, refine it.", "--two-stage", panel=_STAGES)
    ] = False,
    upsampler: Annotated[
        str | None, _option("The latent upsampler: a folder, file or repository.", panel=_STAGES)
    ] = None,
    refine_strength: Annotated[
        float | None,
        _option("Share of the steps in the second stage. \\[default: the preset's, or 0.4]", panel=_STAGES),
    ] = None,
    format: Annotated[
        str | None, _option("mp4, webm, gif, or frames (a folder of PNG files). \\[default: mp4]")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    speed: Speed = None,
    vae_memory: VAEMemory = None,
    prompt_cache: PromptCache = None,
    from_json: Annotated[
        Path | None,
        _option("Make a video again from its JSON or from the video; other options override it."),
    ] = None,
    prompts_file: Annotated[
        Path | None,
        _option("Many videos: a prompt a line, or a JSON object a line (.jsonl). Finished ones are skipped."),
    ] = None,
) -> None:
    """Make a video from a prompt, and from pictures and clips if some are given.

    Seed and settings are written into the video and to a JSON file beside it.
    """
    options = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS}
    from .loading import is_verbose

    stored = read_settings(from_json) if from_json is not None else {}
    given = option_values(options)
    maker = Maker(device, verbose=is_verbose(context), vae_memory=vae_memory, prompt_cache=prompt_cache)
    if prompts_file is not None:
        if prompt is not None:
            raise InputError("--prompts-file has the prompts", got=repr(prompt), fix="give one of them")
        stored.pop("prompt", None)
        _make_batch(prompts_file, output, stored | given, maker, format)
        return
    output = default_output(output, format)
    with Stages() as stages:
        made = maker.make(Settings.of(stored | given), output, format=format, stages=stages)
    typer.echo(made.summary(stages))


_NOT_SETTINGS = (
    "context",
    "output",
    "format",
    "device",
    "vae_memory",
    "prompt_cache",
    "from_json",
    "prompts_file",
)


def _make_batch(
    file: Path, output: Path | None, shared: dict[str, Any], maker: Maker, format: str | None
) -> None:
    """Make the videos of a file of prompts; the exit code says whether all could be made."""
    from ..data.video import FORMATS, video_format

    folder = output if output is not None else Path("out")
    format = video_format(f"x{FORMATS.get(format or 'mp4', '')}", format)
    if folder.exists() and not folder.is_dir():
        raise InputError("the videos of a batch need a folder", got=folder, fix="give one as -o")
    maker.check_device()
    jobs = read_jobs(file, folder, FORMATS[format], shared)
    try:
        if any(job.error is None for job in jobs):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"the folder {folder} can't be made", got=error.strerror) from error
    tally = run_batch(jobs, maker)
    typer.echo(f"{folder}: {tally}")
    if tally.failed:
        raise typer.Exit(1)
