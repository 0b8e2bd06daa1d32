"""`ltx-diffusers generate`: a video from a prompt, and from an image if one is given."""

from __future__ import annotations

import inspect
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .settings import (
    DTYPES,
    Settings,
    check_record_replaceable,
    file_hash,
    parse_size,
    read_settings,
    record_of,
    record_path,
    write_record,
)
from .stages import Stages, peak_memory

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..pipelines.request import Request


def command(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where to write it; the ending gives the format. \\[default: out.mp4]"
        ),
    ] = None,
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
    image: Annotated[
        Path | None,
        typer.Option(help="First frame; it is resized to cover the size, and cut evenly at the edges."),
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What the video should not show.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same video. \\[default: random]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps. \\[default: the model's, as for all below]")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance; 1 is off.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="In pixels, multiples of 32, like 704x480.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="8k+1: 9, 17, 25, ...")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second.")] = None,
    format: Annotated[
        str | None, typer.Option(help="mp4, webm, gif, or frames (a folder of PNG files). \\[default: mp4]")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, ...; auto is a GPU if there is one.")
    ] = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. \\[default: float32 on a CPU, bfloat16 on a GPU]"),
    ] = None,
    from_json: Annotated[
        Path | None,
        typer.Option(help="Make a video again from its JSON or from the video; other options override it."),
    ] = None,
) -> None:
    """Make a video from a prompt.

    Seed and settings are written into the video and to a JSON file beside it.
    """
    from ..errors import InputError
    from .loading import is_verbose

    given = {
        "prompt": prompt,
        "model": model,
        "text_encoder": text_encoder,
        "version": version,
        "image": None if image is None else str(image),
        "negative_prompt": negative,
        "seed": seed,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "num_frames": frames,
        "frame_rate": fps,
        "dtype": dtype,
    }
    if size is not None:
        given["width"], given["height"] = parse_size(size)
    stored = read_settings(from_json) if from_json is not None else {}
    if image is not None:
        stored.pop("image_sha256", None)
    merged = stored | {name: value for name, value in given.items() if value is not None}
    if "prompt" not in merged:
        raise InputError("a prompt is needed", fix='ltx-diffusers generate "a red circle moves left"')
    output = default_output(output, format)
    with Stages() as stages:
        made = generate(
            Settings(**merged),
            output,
            format=format,
            device=device,
            stages=stages,
            verbose=is_verbose(context),
        )
    typer.echo(made.summary(stages))


@dataclass(frozen=True)
class Made:
    """A video that was made: where it is, where its record is, and its settings with nothing left open."""

    path: Path
    record_path: Path
    settings: Settings
    peak_bytes: int | None
    peak_gpu_bytes: int | None

    def summary(self, stages: Stages) -> str:
        """What was made, how long each stage took and how much memory was needed, in two lines."""
        made = self.settings
        memory = [] if self.peak_bytes is None else [f"{self.peak_bytes / 1e9:.2f} GB"]
        memory += [] if self.peak_gpu_bytes is None else [f"{self.peak_gpu_bytes / 1e9:.2f} GB on the GPU"]
        return (
            f"{self.path}: {made.num_frames} frames of {made.width}x{made.height} at {made.frame_rate:g} fps, "
            f"{made.num_inference_steps} steps, seed {made.seed} (settings in {self.record_path})\n"
            f"{stages.summary()}; in all {sum(stages.seconds.values()):.1f} s; "
            f"peak memory {' and '.join(memory) or 'unknown'}"
        )


def default_output(output: Path | None, format: str | None) -> Path:
    """Where to write: as asked for, or `out` with the ending of the format."""
    from ..data.video import FORMATS

    return output if output is not None else Path(f"out{FORMATS.get(format or 'mp4', '')}")


def generate(
    settings: Settings,
    output: Path,
    *,
    format: str | None = None,
    device: str = "auto",
    stages: Stages | None = None,
    verbose: bool = False,
) -> Made:
    """Make a video file. Everything that can be checked without torch is checked first, and nothing written.

    Args:
        settings: What to make; what is None is taken from the model, a random seed is drawn.
        output: The file, or the folder of frames.
        format: As `data.video.write_video` takes it.
        device: "auto", or the name of a device.
        stages: Gets the times; a new one if None.
        verbose: Whether the warnings of the libraries below are shown.

    Raises:
        InputError: If anything given can't be used; also `MediaError` and `UnknownNameError`.
        MediaError: If the output can't be written.
    """
    from ..data.video import check_writable, read_image, write_video
    from ..errors import MediaError
    from .loading import check_device_name, find_pipeline, load_pipeline, pick_device, pick_dtype

    settings.check()
    format = check_writable(output, format)
    record_file = record_path(output)
    if record_file.is_dir():
        raise MediaError(f"{record_file} is a folder", expected="room for the video's settings")
    check_record_replaceable(record_file)
    picture = None if settings.image is None else read_image(settings.image)
    check_device_name(device)
    source = find_pipeline(settings.model, settings.text_encoder)

    stages = Stages() if stages is None else stages
    stages.begin("load")
    where = pick_device(device)
    dtype = pick_dtype(DTYPES.get(settings.dtype), where)
    settings = replace(
        settings,
        seed=secrets.randbelow(2**32) if settings.seed is None else settings.seed,
        image_sha256=None if settings.image is None else file_hash(settings.image),
        dtype=str(dtype).removeprefix("torch."),
    )
    if where.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(where)
        stages.synchronize = lambda: torch.cuda.synchronize(where)
    pipeline = load_pipeline(
        source,
        class_name="LTXPipeline" if picture is None else "LTXImageToVideoPipeline",
        device=where,
        dtype=dtype,
        text_encoder=settings.text_encoder,
        version=settings.version,
        quiet=not verbose,
    )
    settings, frames = run_pipeline(pipeline, settings, picture, stages)

    stages.begin("write")
    record = record_of(settings)
    path = write_video(output, frames, settings.frame_rate, record, format)
    write_record(record_file, record)
    return Made(path, record_file, settings, peak_memory(), _gpu_peak(where))


def run_pipeline(
    pipeline: Any, settings: Settings, picture: np.ndarray | None, stages: Stages
) -> tuple[Settings, np.ndarray]:
    """Generate with a loaded pipeline, with the stages text, denoise and decode.

    Args:
        pipeline: `LTXPipeline`, or `LTXImageToVideoPipeline` if there is a picture.
        settings: With a seed; what is None is taken from the pipeline's components.
        picture: First frame, uint8 (H, W, 3) of any size.
        stages: Gets the times.

    Returns:
        The settings with nothing left open, and the frames, uint8 (F, H, W, 3).
    """
    import numpy as np
    import torch

    request = _with_defaults(pipeline, settings)
    settings = replace(
        settings,
        **{
            name: getattr(request, name)
            for name in (
                "width",
                "height",
                "num_frames",
                "frame_rate",
                "num_inference_steps",
                "guidance_scale",
                "decode_timestep",
                "decode_noise_scale",
            )
        },
    )
    arguments = _call_arguments(settings)
    if picture is not None:
        from ..data.pictures import fit_frames

        arguments["image"] = fit_frames(picture, settings.height, settings.width)

    stages.begin("text")
    with torch.no_grad():
        embeds, mask, negative_embeds, negative_mask = pipeline.encode_prompt(
            settings.prompt, settings.negative_prompt, request.guided
        )
    arguments |= {
        "prompt": None,
        "negative_prompt": None,
        "prompt_embeds": embeds,
        "prompt_attention_mask": mask,
    }
    if request.guided:
        arguments |= {
            "negative_prompt_embeds": negative_embeds,
            "negative_prompt_attention_mask": negative_mask,
        }

    stages.begin("denoise", total=settings.num_inference_steps)

    def step_done(pipeline: Any, index: int, timestep: torch.Tensor, tensors: dict) -> dict:
        stages.advance()
        if index + 1 == pipeline.num_timesteps:
            stages.begin("decode")
        return {}

    output = pipeline(
        **arguments,
        # Drawn on the CPU, so that the noise doesn't depend on the device.
        generator=torch.Generator("cpu").manual_seed(settings.seed),
        output_type="np",
        callback_on_step_end=step_done,
        callback_on_step_end_tensor_inputs=[],
    )
    return settings, (output.frames[0] * 255).round().astype(np.uint8)


def _call_arguments(settings: Settings) -> dict[str, Any]:
    """What a pipeline's call takes of the settings."""
    names = (
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "num_frames",
        "frame_rate",
        "num_inference_steps",
        "guidance_scale",
        "decode_timestep",
        "decode_noise_scale",
    )
    return {name: getattr(settings, name) for name in names}


def _with_defaults(pipeline: Any, settings: Settings) -> Request:
    """The pipeline's call with the defaults that its components state."""
    from ..pipelines.request import Request, with_defaults

    parameters = inspect.signature(type(pipeline).__call__).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    request = Request.from_call(defaults | _call_arguments(settings))
    return with_defaults(request, pipeline.transformer.config, pipeline.vae.config, pipeline.scheduler.config)


def _gpu_peak(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated(device)
