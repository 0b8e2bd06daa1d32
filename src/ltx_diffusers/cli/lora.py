"""`ltx-diffusers lora`: LoRA files converted, looked at, merged into checkpoints and extracted from them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .stages import Stages

if TYPE_CHECKING:
    import torch

    from ..conversion.lora.layers import Lora
    from ..conversion.lora.report import LoraReport

app = typer.Typer(help="Convert, inspect, merge and extract LoRAs of any format.", no_args_is_help=True)

_FORMATS = ("diffusers", "peft", "comfy", "kohya")
_DTYPES = ("float32", "bfloat16", "float16")
_FORMAT_HELP = "diffusers, peft (a folder), comfy (official names) or kohya."
_Lora = Annotated[str, typer.Argument(metavar="LORA", help="A LoRA file or folder, of any format.")]
_Format = Annotated[str, typer.Option("--to", help=_FORMAT_HELP)]
_Pickle = Annotated[bool, typer.Option("--allow-pickle", help="Open .bin and .pt files, for weights only.")]


@app.command("convert")
def convert_command(
    source: _Lora,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The new file; a folder for peft.")],
    to: _Format,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. \\[default: kept]")] = None,
    allow_pickle: _Pickle = False,
) -> None:
    """Write a LoRA in another format, with its scales, ranks, DoRA magnitudes and names."""
    _check_choices(to, dtype)
    from ..conversion.lora.files import check_target, write_lora
    from ..conversion.lora.report import check_effect, describe_lora

    check_target(target, to)
    lora = _read(source, allow_pickle)
    report = describe_lora(lora)
    check_effect(report, source)
    path = write_lora(lora, target, to, _dtype(dtype))
    typer.echo(str(report))
    typer.echo(f"{path}: {_count(len(lora.layers), 'layer')} as {to}, read as {lora.format}")


@app.command("info")
def info_command(
    source: _Lora,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="A checkpoint file or folder, or embedded, that the LoRA is held against."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    allow_pickle: _Pickle = False,
) -> None:
    """Show a LoRA's format, ranks and scales, which keys are used or why not, and how much each block changes."""
    lora = _read(source, allow_pickle)
    report = _report(lora, checkpoint)
    if as_json:
        typer.echo(json.dumps({**asdict(report), "norm": report.norm}, indent=2))
    else:
        _print_report(source, lora, report)
    from ..conversion.lora.report import check_effect

    check_effect(report, source)


@app.command("merge")
def merge_command(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A safetensors file, a transformer's or pipeline's folder, or embedded.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The new file or folder.")],
    loras: Annotated[
        list[str], typer.Argument(metavar="LORA...", help="LoRA files or folders, of any format.")
    ],
    weights: Annotated[
        list[float] | None,
        typer.Option("--weight", help="One for all LoRAs, or one for each, in their order. \\[default: 1]"),
    ] = None,
) -> None:
    """Write a copy of a checkpoint with LoRAs added to its weights, tensor by tensor, in its own layout."""
    from ..errors import InputError

    given = weights or [1.0]
    if len(given) not in (1, len(loras)):
        raise InputError("the weights don't fit the LoRAs", got=len(given), expected=f"1 or {len(loras)}")
    from ..conversion.lora.merge import merge_loras

    pairs = list(zip(loras, given * len(loras) if len(given) == 1 else given, strict=True))
    with Stages() as stages:
        stages.begin("check")
        made = merge_loras(
            _checkpoint(checkpoint),
            pairs,
            target,
            begin=lambda count: stages.begin("merge", total=count),
            progress=lambda _: stages.advance(),
        )
    for (name, weight), report in zip(pairs, made.loras, strict=True):
        typer.echo(f"{name} at weight {weight:g}: {report}")
    typer.echo(
        f"{made.path}: {_count(made.changed, 'tensor')} changed; rounding to the checkpoint's dtype changed them by "
        f"{made.rounding:.2%} of what was added; {stages.summary()}"
    )


@app.command("extract")
def extract_command(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="The original checkpoint: file, folder, or embedded.")
    ],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The changed one, of the same size.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The new LoRA; a folder for peft.")],
    rank: Annotated[int, typer.Option(help="The largest rank of a layer.")] = 32,
    to: _Format = "diffusers",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    differences: Annotated[
        bool,
        typer.Option(
            "--differences", help="Keep changes of biases, norms and tables whole; for comfy and kohya only."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the decomposition of large weights.")] = 0,
) -> None:
    """Make a LoRA of the difference of two checkpoints, and say how much of it the LoRA holds."""
    from ..errors import InputError

    _check_choices(to, dtype)
    if differences and to in ("diffusers", "peft"):
        raise InputError(
            "PEFT's formats can't hold full differences", got=f"--to {to}", expected="comfy or kohya"
        )
    from ..conversion.lora.extract import extract_lora
    from ..conversion.lora.files import check_target, write_lora

    check_target(target, to)
    with Stages() as stages:
        stages.begin("check")
        lora, report = extract_lora(
            _checkpoint(base),
            _checkpoint(tuned),
            rank=rank,
            dtype=_dtype(dtype),
            differences=differences,
            seed=seed,
            begin=lambda count: stages.begin("extract", total=count),
            progress=stages.advance,
        )
        stages.begin("write")
        path = write_lora(lora, target, to)
    for block, error in report.errors.items():
        typer.echo(f"{block}: error {error:.2%}")
    if report.left_out:
        names = sorted(report.left_out, key=report.left_out.get, reverse=True)
        typer.echo(
            f"left out: {_count(len(names), 'parameter')} beside the weights of linear layers, the most changed "
            f"{names[0]} by norm {report.left_out[names[0]]:.4g}"
        )
    typer.echo(
        f"{path}: {_count(len(lora.layers), 'layer')} of rank {rank} or less, "
        f"{lora.num_parameters / 1e6:,.2f} M parameters; "
        f"lacks {report.error:.2%} of a difference of norm {report.norm:.4g}; {stages.summary()}"
    )


def _checkpoint(path: str) -> Path:
    """A checkpoint's place; "embedded" is the embedded model."""
    from ..embedded import embedded_model_path

    return embedded_model_path() if path == "embedded" else Path(path)


def _check_choices(to: str, dtype: str | None) -> None:
    """Check what can be checked without torch."""
    from ..errors import InputError

    if to not in _FORMATS:
        raise InputError("unknown LoRA format", got=repr(to), expected=", ".join(_FORMATS))
    if dtype is not None and dtype not in _DTYPES:
        raise InputError("unknown dtype", got=repr(dtype), expected=", ".join(_DTYPES))


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    return None if name is None else getattr(torch, name)


def _read(source: str, allow_pickle: bool) -> Lora:
    from ..conversion.lora.files import read_lora

    return read_lora(source, allow_pickle=allow_pickle)


def _report(lora: Lora, checkpoint: str | None) -> LoraReport:
    from ..conversion.lora.report import describe_lora, fitted

    if checkpoint is None:
        return describe_lora(lora)
    from ..conversion.lora.checkpoints import open_transformer

    with open_transformer(_checkpoint(checkpoint)) as model:
        return describe_lora(fitted(lora, model.shapes, differences=True), model.load)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _print_report(source: str, lora: Lora, report: LoraReport) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("block", "norm of the change", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    if report.relative is not None:
        table.add_column("relative to the weights", justify="right")
    table.columns[1].justify = "right"
    for block, norm in report.norms.items():
        relative = [] if report.relative is None else [f"{report.relative.get(block, 0):.3%}"]
        table.add_row(block, f"{norm:.4g}", *relative)
    kind = f"{report.format}{', DoRA' if report.uses_dora else ''}"
    counted = (f"{name} ({_count(count, 'layer')})" for name, count in sorted(report.ranks.items()))
    scales = (f"{scale:g} ({_count(count, 'layer')})" for scale, count in sorted(report.scales.items()))
    dtypes = f" in {', '.join(report.dtypes)}" if report.dtypes else ""
    size = f"{report.num_parameters / 1e6:,.2f} M parameters{dtypes}"
    lines = [f"{source}: {kind}, {_count(len(lora.layers), 'layer')}, {size}"]
    if report.ranks:
        lines.append(f"rank {', '.join(counted)}; alpha / rank {', '.join(scales)}")
    if report.uses_dora and report.relative is None:
        lines.append(
            "norms are those of the low-rank part: what DoRA does depends on the weights (--checkpoint)"
        )
    console = Console()
    console.print(escape("\n".join(lines)), highlight=False)
    if report.norms:
        console.print(table)
    console.print(escape(str(report)), highlight=False)
