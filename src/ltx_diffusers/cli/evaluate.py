"""`ltx-diffusers evaluate`: measured tables of what a model can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import evaluate_vae
from .common_options import Device
from .report_files import check_folder as _check_folder
from .report_files import replace_file as _replace
from .report_files import write_json

if TYPE_CHECKING:
    from ..evaluation.shapes import JudgedClip

app = typer.Typer(
    help="Measure a model.", no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)


class Part(Enum):
    """What `--only` takes."""

    t2v = "t2v"
    i2v = "i2v"
    vae = "vae"
    first_last = "first-last"
    extend = "extend"
    extend_backward = "extend-backward"
    inpaint = "inpaint"
    two_prompts = "two-prompts"


_PARTS = {
    Part.t2v: "text-to-video",
    Part.i2v: "image-to-video",
    Part.vae: "vae",
    Part.first_last: "first-and-last-frame",
    Part.extend: "extension",
    Part.extend_backward: "extension-backward",
    Part.inpaint: "inpainting",
    Part.two_prompts: "two-prompts",
}
_BY_DEFAULT = (Part.t2v, Part.i2v, Part.vae)
_REPORT = "shapes.json"


app.command("reconstruction")(evaluate_vae.reconstruction)
app.command("latents")(evaluate_vae.latents)
app.command("compare")(evaluate_vae.compare)


@app.command("shapes")
def shapes(
    model: Annotated[
        str, typer.Option("--model", help="'embedded', a folder or a repository owner/name.")
    ] = "embedded",
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Held-out prompts.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of clips, wordings and noise.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the report and the contact sheets.")
    ] = Path("shapes-evaluation"),
    only: Annotated[
        list[Part] | None,
        typer.Option("--only", help="Run this part; may be given again. Without it: t2v, i2v and vae."),
    ] = None,
    motion: Annotated[
        list[str] | None,
        typer.Option("--motion", help="Ask for this motion alone, like diagonal; may be given again."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Of the videos. \\[default: what the model makes]")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Of a video. \\[default: what the model makes]")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora", help="A LoRA: a file, folder or repository; many times.", metavar="LORA[:WEIGHT]"
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Clips made at a time.")] = 10,
    device: Device = "auto",
) -> None:
    """Generate held-out prompts of moving-shapes, let the judge read them, and print the table of targets.

    Writes shapes.json and a contact sheet per part (failures first, framed in red) to the output folder.
    """
    from rich.console import Console

    from ..data.moving_shapes import MOTIONS, combinations
    from ..geometry import VideoSize
    from .settings import parse_size

    _check_folder(output)
    sides = None if size is None else parse_size(size)
    motions = tuple(motion or MOTIONS)
    combinations("held-out", motions)  # refuses an unknown one before the model is loaded
    pipeline = _load(model, device, lora or ())

    from ..evaluation.shape_sheets import ShapeSheets
    from ..evaluation.shapes import ALL_PARTS, default_size, evaluate_shapes

    video = default_size(pipeline)
    width, height = sides or (video.width, video.height)
    chosen = {_PARTS[part] for part in only or _BY_DEFAULT}
    parts = tuple(part for part in ALL_PARTS if part in chosen)
    sheets = ShapeSheets()
    with _Progress(parts, prompts) as advance:

        def on_clip(clip: JudgedClip) -> None:
            sheets.add(clip)
            advance(clip.part)

        report = evaluate_shapes(
            pipeline,
            num_prompts=prompts,
            seed=seed,
            parts=parts,
            size=VideoSize(frames or video.frames, height, width),
            motions=motions,
            batch_size=batch_size,
            on_clip=on_clip,
        )
    report["settings"] |= {"model": model, "loras": lora or []}
    written = _write(output, report, sheets)
    console = Console()
    _print_tables(console, report)
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True, highlight=False, markup=False)


def _load(model: str, device: str, loras: Sequence[str] = ()) -> Any:
    """The pipeline, on its device, with its LoRAs, without progress bars of its own.

    Raises:
        InputError: If there is no such model, device or LoRA, or it can't be loaded.
    """
    from .loading import check_device_name, find_pipeline, load_loras, load_pipeline, pick_device

    check_device_name(device)
    source = find_pipeline(model)

    import torch

    pipeline = load_pipeline(source, device=pick_device(device), dtype=torch.float32)
    load_loras(pipeline, loras)
    return pipeline


class _Progress:
    """A progress bar for each part, on stderr. Its context gives `advance(part)`."""

    def __init__(self, parts: tuple[str, ...], total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        columns = (
            TextColumn("{task.description:15}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeLeft(),
        )
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._tasks = {part: self._bars.add_task(part, total=total, start=False) for part in parts}

    def __enter__(self) -> Callable[[str], None]:
        self._bars.start()
        self._bars.start_task(next(iter(self._tasks.values())))
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _advance(self, part: str) -> None:
        self._bars.start_task(self._tasks[part])
        self._bars.advance(self._tasks[part])


def _write(folder: Path, report: dict[str, Any], sheets: Any) -> list[Path]:
    """Write the report and a sheet per part, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for part in sheets.parts():
        sheet = sheets.draw(part)
        written.append(_replace(folder / f"{part}.png", lambda path, sheet=sheet: sheet.save(path, "PNG")))
    written.append(write_json(folder / _REPORT, report))
    return written


def _print_tables(console: Any, report: dict[str, Any]) -> None:
    from rich.table import Table

    size, seconds = report["settings"]["size"], report["seconds"]
    count = report["settings"]["num_prompts"]
    title = (
        f"moving-shapes, {count} held-out prompts, {size['width']}x{size['height']}, {size['frames']} frames"
    )
    table = Table("part", "figure", "value", "95 % interval", "right", "target", "reached", title=title)
    previous = None
    for figure in report["figures"]:
        if previous not in (None, figure["part"]):
            table.add_section()
        shown = f"{figure['part']} ({seconds[figure['part']]:.0f} s)" if figure["part"] != previous else ""
        previous = figure["part"]
        low, high = figure["interval"]
        reached = {True: "[green]yes[/green]", False: "[red]no[/red]", None: ""}[figure.get("reached")]
        table.add_row(
            shown,
            figure["name"],
            _number(figure["value"], figure["unit"]),
            f"{_number(low, figure['unit'])} to {_number(high, figure['unit'])}",
            f"{figure['right']}/{figure['count']}" if "right" in figure else "",
            f">= {_number(figure['target'], figure['unit'])}" if "target" in figure else "",
            reached,
        )
    console.print(table)
    confusions = [
        (part, name, entry)
        for part, tables in report["confusions"].items()
        for name, entries in tables.items()
        for entry in entries
    ]
    if confusions:
        table = Table("part", "property", "wanted", "read", "clips", title="what went wrong")
        for part, name, entry in confusions:
            table.add_row(part, name, entry["wanted"], entry["read"], str(entry["count"]))
        console.print(table)


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.1f} {unit}" if unit else f"{value:.3f}"
