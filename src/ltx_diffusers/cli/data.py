"""`ltx-diffusers data check|filter|pack|preview`: sets of pictures and videos checked, chosen, packed, looked at."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .data_filter import command as filter_command
from .data_filter import report_scenes
from .progress_bars import progress

if TYPE_CHECKING:
    from ..data.checking import SetReport
    from ..data.clips import ClipReader

app = typer.Typer(help="Check, filter, pack and look at sets of pictures and videos.", no_args_is_help=True)

_SHOWN = 20
_EXIT_PROBLEMS = 1
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_Set = Annotated[
    Path,
    typer.Argument(metavar="SET", help="A folder, a CSV, JSON or JSONL list, a tar or a folder of tars."),
]


@app.command("check")
def check_command(
    source: _Set,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read videos' headers only, instead of decoding every frame.")
    ] = False,
    report_folder: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Also find and measure scenes: a folder for report.txt, report.json and scores.png.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read, or processes that measure.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that was found as JSON.")] = False,
) -> None:
    """Say what a set holds and what is wrong with it. The exit code is 1 if anything is."""
    from ..data.checking import check_set
    from ..data.media_sets import find_entries
    from .report_files import check_folder

    if report_folder is not None:
        check_folder(report_folder)
    entries, problems = find_entries(source)
    with progress("checking", len(entries)) as advance:
        report = check_set(entries, problems, quick=quick, workers=workers, advance=advance)
    lines = list(_described(report))
    if report_folder is not None:
        lines += report_scenes(report_folder, entries, lines, report.to_json(), workers)
    typer.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else "\n".join(lines))
    if not report.is_clean:
        raise typer.Exit(_EXIT_PROBLEMS)


app.command("filter")(filter_command)


@app.command("pack")
def pack_command(
    source: _Set,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder for the tars.")],
    samples: Annotated[int, typer.Option(min=1, help="At most so many samples in a tar.")] = 1000,
    size: Annotated[str, typer.Option(help="At most so many bytes in a tar, as 500M or 2G.")] = "1G",
    keep_order: Annotated[
        bool,
        typer.Option("--keep-order", help="Don't shuffle the samples before they are spread over the tars."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffling.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a packing that was interrupted.")
    ] = False,
) -> None:
    """Pack a set into WebDataset tars with metadata. Broken files are left out and listed; then the exit code is 1."""
    from ..data.media_sets import find_entries
    from ..data.packing import pack, plan_shards

    max_bytes = _parse_bytes(size)
    entries, problems = find_entries(source)
    plan = plan_shards(entries, samples=samples, max_bytes=max_bytes, seed=None if keep_order else seed)
    with progress("packing", len(entries)) as advance:
        report = pack(plan, target, resume=resume, advance=advance)
    problems = [*problems, *report.left_out]
    for line in _listed("left out or unreadable", problems):
        typer.echo(line, err=True)
    typer.echo(
        f"{target}: {_count(report.samples, 'sample')} packed, {_count(len(report.shards), 'tar')} in all"
    )
    if problems:
        raise typer.Exit(_EXIT_PROBLEMS)


@app.command("preview")
def preview_command(
    output: Annotated[Path, typer.Option("-o", "--output", help="The contact sheet, a PNG file.")],
    source: Annotated[
        str | None,
        typer.Argument(metavar="[SET]", help="A set, as for check, or the name of a reader without files."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Show what the data of this training config are instead.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the data, as num_frames=9 or options.stride=2."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Clips to show.")] = 8,
    held_out: Annotated[bool, typer.Option("--held-out", help="Show the held-out clips.")] = False,
) -> None:
    """Draw clips as training would see them, with their captions and files."""
    from ..data.pictures import contact_sheet
    from ..data.video import check_image_writable, write_image

    check_image_writable(output)
    reader = _open_reader(source, config, options or [], "held-out" if held_out else "train")
    import numpy as np

    videos, titles = [], []
    with progress("reading", count) as advance:
        for number in range(count):
            clip = reader[number]
            videos.append((clip.frames * 255).round().astype(np.uint8))
            titles.append(" | ".join(filter(None, (clip.name, clip.caption)))[:160])
            advance()
    write_image(output, np.asarray(contact_sheet(videos, titles)))
    typer.echo(
        f"{output}: {_count(count, 'clip')} of {reader.num_frames} frames, {reader.width}x{reader.height}"
    )


def _open_reader(source: str | None, config: Path | None, options: list[str], split: str) -> ClipReader:
    from ..data import data_readers
    from ..data.media_sets import reader_of
    from ..errors import InputError
    from ..plugins import load_plugins
    from ..training.clips import open_clips, read_data_config

    load_plugins()
    if (source is None) == (config is None):
        raise InputError("give either a set or --config")
    values: dict[str, Any] = {}
    if source is not None:
        if source in data_readers and not Path(source).exists():
            values = {"reader": source}
        else:
            values = {"reader": reader_of(source), "options": {"path": source}}
    return open_clips(read_data_config(config, values, options), split)


def _described(report: SetReport) -> Iterator[str]:
    total = report.pictures + report.videos
    yield f"{_count(report.pictures, 'picture')}, {_count(report.videos, 'video')}, {_size(report.bytes)}"
    if report.videos:
        frames = sorted(report.num_frames)
        yield (
            f"videos: {report.seconds:,.1f} s in all; {frames[0]} to {frames[-1]} frames, "
            f"median {frames[len(frames) // 2]}"
        )
        yield f"frame rates: {_most_common(report.frame_rates)}"
    if total:
        yield f"sizes: {_most_common(report.sizes)}"
        yield f"captions: {total - report.without_caption} of {total}"
    yield from _listed("broken", report.broken)
    yield from _listed("wrong", report.wrong)
    yield from _listed("the same content", [" = ".join(names) for names in report.duplicates])
    if report.is_clean:
        yield "nothing is wrong"


def _most_common(counter: Counter) -> str:
    parts = [
        f"{value:g} ({times})" if isinstance(value, float) else f"{value} ({times})"
        for value, times in counter.most_common(6)
    ]
    rest = len(counter) - len(parts)
    return ", ".join(parts) + (f" and {rest} others" if rest else "")


def _listed(title: str, things: list[Any]) -> Iterator[str]:
    if not things:
        return
    yield f"{title}: {len(things)}"
    for thing in things[:_SHOWN]:
        yield f"  {thing}"
    if len(things) > _SHOWN:
        yield f"  and {len(things) - _SHOWN} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _size(number: int) -> str:
    unit, name = next(((unit, name) for name, unit in reversed(_UNITS.items()) if number >= unit), (1, ""))
    return f"{number / unit:.3g} {name}B".replace("KB", "kB")


def _parse_bytes(text: str) -> int:
    from ..errors import InputError

    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip().upper())
    if found is None or float(found[1]) * _UNITS[found[2]] < 1:
        raise InputError(
            "this is no size in bytes", got=repr(text), expected="a number with K, M or G, as 500M"
        )
    return int(float(found[1]) * _UNITS[found[2]])
