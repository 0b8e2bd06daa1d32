"""`ltx-diffusers convert`: a checkpoint into another layout, tensor by tensor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..conversion.convert import Conversion, StageProgress

_DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A checkpoint file, a folder in Diffusers' layout (a pipeline or one component), or embedded.",
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="A new folder for diffusers, a new file for the others.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="diffusers: a folder that Diffusers loads; official: one file that the official package and "
            "ComfyUI load; comfy: the same with the text encoder, for ComfyUI's checkpoint loader."
        ),
    ],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. \\[default: as each tensor is]")
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option(
            help="The most that one weight file of a folder may hold, such as 5GB. \\[default: no limit]"
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="The release, such as 0.9.6-dev, where the source doesn't tell it.")
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .ckpt, .pt, .pth and .bin files, weights only.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read both sides again and compare them; exit code 2 if they differ."),
    ] = False,
) -> None:
    """Convert a checkpoint between the layouts of Diffusers, of the official package and of ComfyUI."""
    from ..errors import InputError
    from .setup import set_up

    if dtype is not None and dtype not in _DTYPES:
        raise InputError("unknown dtype", got=repr(dtype), expected="float32, bfloat16 or float16")
    set_up()
    import torch

    from ..conversion.convert import convert

    with _progress() as progress:
        made = convert(
            _source(source),
            target,
            to=to,
            dtype=None if dtype is None else getattr(torch, _DTYPES[dtype]),
            shard_size=shard_size,
            version=version,
            allow_pickle=allow_pickle,
            verify=verify,
            progress=progress,
        )
    for line in _lines(made):
        typer.echo(line)
    if made.report is not None and not made.report.ok:
        raise InputError(f"{target} differs from {source}; the report says where")


def _source(source: str) -> Path:
    from ..embedded import embedded_model_path
    from ..errors import InputError

    if source == "embedded":
        return embedded_model_path()
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(
            f"there is no file or folder {source}",
            fix="fetch a repository of the Hub first: ltx-diffusers pull" if source.count("/") == 1 else None,
        )
    return path


def _lines(made: Conversion) -> list[str]:
    """What to tell the user."""
    lines = list(made.notes)
    for part in made.parts:
        dtypes = ", ".join(part.dtypes)
        lines.append(
            f"{part.kind}: {part.tensors} tensors, {part.parameters / 1e6:,.2f} M parameters, {dtypes}, "
            f"{part.nbytes / 1e6:,.1f} MB"
        )
    if made.report is not None:
        lines += made.report.lines()
    release = f" of {made.version}" if made.version else ""
    speed = made.nbytes / 1e6 / max(made.seconds, 1e-3)
    lines.append(
        f"{made.target}: {made.layout}{release}, {made.nbytes / 1e9:,.2f} GB written in {made.seconds:.1f} s "
        f"({speed:,.0f} MB/s)"
    )
    return lines


@contextmanager
def _progress() -> Iterator[StageProgress | None]:
    """Bars on a terminal's stderr: bytes written, then bytes verified."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn(),
    )  # fmt: skip
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield advance
