"""`ltx-diffusers precompute`: latents and text features of a set, computed once before training."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common_options import Device

if TYPE_CHECKING:
    from ..data.media_entries import MediaEntry
    from ..training.clip_plan import ClipSettings
    from ..training.precompute_parts import PrecomputeReport

_SHOWN = 10
CHECK_NAME = "check.png"
"""The contact sheet of `--check`, in the folder of the latents."""


class Split(Enum):
    """What `--split` takes."""

    all = "all"
    train = "train"
    held_out = "held-out"


class Precision(Enum):
    """What `--dtype` takes."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def command(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SET", help="A folder, a CSV, JSON or JSONL list, tars, or a dataset of Hugging Face's."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the latents; one that was begun goes on.")
    ],
    sizes: Annotated[
        list[str],
        typer.Option(
            "--size",
            metavar="WxHxF",
            help="Width, height and frames, as 768x512x49, or WxH for pictures. Give several, and each clip gets the "
            "one that shows most of it.",
        ),
    ],
    model: Annotated[
        str, typer.Option(help="A pipeline's folder, repository or checkpoint file, or embedded.")
    ] = "embedded",
    text_encoder: Annotated[
        str | None,
        typer.Option(help="For a checkpoint file: a folder or repository with T5 and its tokenizer."),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="For a checkpoint file that doesn't tell: its release.")
    ] = None,
    frame_rate: Annotated[
        float | None,
        typer.Option(help="Frames per second of all clips. \\[default: every video's own]"),
    ] = None,
    clips: Annotated[
        str, typer.Option(help="Clips of each video, evenly spread and without overlap, or all.")
    ] = "1",
    every_size: Annotated[
        bool,
        typer.Option("--every-size", help="Clips of every size that fits a video, not of the best alone."),
    ] = False,
    upscale: Annotated[
        bool, typer.Option("--upscale", help="Enlarge what is smaller than all sizes; else it is left out.")
    ] = False,
    caption_prefix: Annotated[str, typer.Option(help="Put before every caption, as 'in SKS style,'.")] = "",
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="A text to encode besides, for validation without a text encoder."),
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Latents only; training encodes the captions itself.")
    ] = False,
    text_length: Annotated[int, typer.Option(min=2, help="Longest caption in tokens.")] = 256,
    reference_scale: Annotated[
        int, typer.Option(min=1, help="Times that references are smaller than their clips, a side.")
    ] = 1,
    pieces: Annotated[
        list[str] | None,
        typer.Option(
            "--piece",
            metavar="FIRST[:FRAMES]",
            help="Also encode these frames of each clip by themselves, for keyframes and clips that training gives: "
            "-1 is the last frame, -9:9 the end.",
        ),
    ] = None,
    split: Annotated[
        Split, typer.Option(help="Only what training sees, or only what is held out from it.")
    ] = Split.all,
    held_out_share: Annotated[float, typer.Option(help="Share of the files that is held out.")] = 0.05,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Keep the first only of files with the same content.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove stored latents and texts that nothing uses any more.")
    ] = False,
    check: Annotated[
        int,
        typer.Option(min=0, help=f"Decode so many samples again into a contact sheet, OUTPUT/{CHECK_NAME}."),
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips of a size that are encoded at once.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read files ahead.")] = 2,
    half: Annotated[
        bool, typer.Option("--half", help="Store latents in 16 bits: half the space, 11 bits of precision.")
    ] = False,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Encode in overlapping tiles: less memory for large clips.")
    ] = False,
    rank: Annotated[
        int | None,
        typer.Option(
            min=0, help="This process's number, for job arrays. \\[default: what the launcher says]"
        ),
    ] = None,
    world_size: Annotated[
        int | None, typer.Option(min=1, help="How many processes share the set. \\[default: likewise]")
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        Precision | None,
        typer.Option(help="Precision of the models. \\[default: float32 on a CPU, bfloat16 on a GPU]"),
    ] = None,
) -> None:
    """Encode pictures, videos, captions, references and masks once, for training without VAE and text encoder."""
    from ..data.buckets import parse_clip_size
    from ..errors import InputError
    from ..geometry import LTX_RATIOS
    from .loading import check_device_name, is_verbose

    check_device_name(device)
    wanted = tuple(dict.fromkeys(parse_clip_size(size) for size in sizes))
    number = _clips_per_video(clips)
    place = _place_among_processes(rank, world_size)
    if no_text and prompts:
        raise InputError("--prompt needs the text encoder", fix="leave out --no-text")
    entries, problems = _find(source, split, held_out_share)

    from ..training.clip_plan import ClipSettings
    from ..training.precompute import EncodingSettings, precompute

    settings = ClipSettings(
        sizes=wanted,
        frame_rate=frame_rate,
        clips_per_video=number,
        every_size=every_size,
        upscale=upscale,
        reference_scale=reference_scale,
        caption_prefix=f"{words} " if (words := caption_prefix.strip()) else "",
        pieces=tuple(map(_parse_piece, pieces or ())),
    )
    settings.check_ratios(LTX_RATIOS)  # before anything is loaded
    models = _Models(
        model,
        text_encoder,
        version,
        device,
        dtype,
        place[0],
        needs_text=not no_text,
        verbose=is_verbose(context),
    )
    with _progress() as progress:
        report = precompute(
            output,
            entries,
            problems,
            clips=settings,
            load_vae=models.vae,
            load_text=None if no_text else models.text,
            encoding=EncodingSettings(
                text_length=text_length,
                batch_size=batch_size,
                workers=workers,
                stored_dtype="float16" if half else "float32",
                tiles=tiles,
            ),
            prompts=prompts or (),
            drop_duplicates=drop_duplicates,
            prune=prune,
            rank=place[0],
            world_size=place[1],
            progress=progress,
        )
    if report is None:
        typer.echo(f"{output}: process {place[0]} of {place[1]} is finished; the last one puts all together")
        return
    for line in _described(report):
        typer.echo(line, err=True)
    sizes_found = ", ".join(f"{size} ({count})" for size, count in report.sizes.most_common())
    typer.echo(f"{output}: {report.samples} samples, {report.encoded} latents encoded now; {sizes_found}")
    if check:
        typer.echo(_check(output, entries, settings, models.vae(), check))


class _Models:
    """A model's VAE and text encoder, each loaded when it is asked for; found, as far as can be, at once."""

    def __init__(
        self,
        model: str,
        text_encoder: str | None,
        version: str | None,
        device: str,
        dtype: Precision | None,
        rank: int,
        *,
        needs_text: bool,
        verbose: bool,
    ) -> None:
        from .loading import find_pipeline, pick_device, pick_dtype

        self.version, self.verbose = version, verbose
        if needs_text:
            self.source = find_pipeline(model, text_encoder)
        else:
            file = Path(model).expanduser()
            self.source = file if file.is_file() else find_pipeline(model)
        self.text_source = text_encoder or self.source
        self.device = pick_device(device)
        if device == "auto" and self.device.type == "cuda":
            self.device = pick_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        self.dtype = pick_dtype(None if dtype is None else dtype.value, self.device)
        self._vae: Any = None

    def vae(self) -> Any:
        """The VAE, loaded once."""
        if self._vae is None:
            from .loading import load_vae

            is_file = isinstance(self.source, Path) and self.source.is_file()
            self._vae = load_vae(
                self.source,
                None if is_file else "vae",
                device=self.device,
                dtype=self.dtype,
                version=self.version,
                quiet=not self.verbose,
            )
        return self._vae

    def text(self) -> tuple[Any, Any]:
        """Tokenizer and text encoder."""
        from .loading import load_text

        return load_text(self.text_source, device=self.device, dtype=self.dtype, quiet=not self.verbose)


def _find(source: Path, split: Split, held_out_share: float) -> tuple[list[MediaEntry], list[Any]]:
    from ..data.cutting import Cut
    from ..data.media_clips import split_entries
    from ..data.media_sets import find_entries

    Cut(held_out_share=held_out_share)
    entries, problems = find_entries(source)
    if split is not Split.all:
        entries = split_entries(entries, split.value, held_out_share)
    return entries, problems


def _clips_per_video(text: str) -> int | None:
    from ..errors import InputError

    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError("--clips must be a positive number or all", got=repr(text))
    return int(text)


def _parse_piece(text: str) -> tuple[int, int]:
    from ..errors import InputError

    found = re.fullmatch(r"(-?\d{1,6})(?::(\d{1,6}))?", text.strip())
    if found is None:
        raise InputError(
            "this is no piece of a clip", got=repr(text), expected="FIRST[:FRAMES], as -1 or -9:9"
        )
    return int(found[1]), int(found[2] or 1)


def _place_among_processes(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's number and how many there are: as given, or as torchrun and `accelerate launch` say."""
    from ..errors import InputError

    if (rank is None) != (world_size is None):
        raise InputError("--rank and --world-size go together")
    if rank is None:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if rank >= world_size:
        raise InputError("--rank must lie below --world-size", got=f"{rank} of {world_size}")
    return rank, world_size


def _described(report: PrecomputeReport) -> Iterator[str]:
    """What is remarkable, in a few lines."""
    if len(report.frame_rates) > 1:
        rates = ", ".join(f"{rate:g} ({count})" for rate, count in report.frame_rates.most_common(6))
        yield f"frame rates differ, and each sample keeps its own: {rates}"
    yield from _listed("left out", report.left_out)
    yield from _listed("without a caption", report.without_caption)
    yield from _listed("captions cut short", report.cut_captions)
    yield from _listed("the same content", [" = ".join(names) for names in report.duplicates])
    if report.dropped:
        yield f"dropped as duplicates: {report.dropped}"
    if report.freed:
        yield f"removed what nothing used any more: {report.freed / 1e6:.1f} MB"


def _listed(title: str, things: Sequence[Any]) -> Iterator[str]:
    if not things:
        return
    yield f"{title}: {len(things)}"
    for thing in things[:_SHOWN]:
        yield f"  {thing}"
    if len(things) > _SHOWN:
        yield f"  and {len(things) - _SHOWN} more, in report.json"


def _check(output: Path, entries: Sequence[MediaEntry], clips: ClipSettings, vae: Any, count: int) -> str:
    """Draw the contact sheet; what to say of it."""
    import numpy as np

    from ..data.video import write_image
    from ..evaluation.stored_latents import check_latents
    from ..geometry import VideoSize
    from ..training.latent_store import LatentStore

    def original(record: dict[str, Any]) -> np.ndarray:
        return clips.read(entries[record["entry"]], VideoSize(*record["size"]), record["place"])

    sheet, figures = check_latents(LatentStore.open(output), vae, count, original)
    path = write_image(output / CHECK_NAME, np.asarray(sheet))
    return (
        f"{path}: {len(figures)} samples decoded, PSNR {min(figures):.1f} to {max(figures):.1f} dB, "
        f"mean {sum(figures) / len(figures):.1f} dB"
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on a terminal's stderr, one for each thing that is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def tell(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=total)
            bars.update(tasks[title], completed=done)

        yield tell
