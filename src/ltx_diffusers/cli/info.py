"""`ltx-diffusers info`: what is in a model, without loading it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..hub.inspection import ModelInfo


def command(
    model: Annotated[str, typer.Argument(help="A folder, a repository owner/name, or 'embedded'.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show a model's components, classes, parameters and settings, without loading its weights."""
    from ..hub.inspection import inspect_model

    info = inspect_model(model)
    if as_json:
        typer.echo(json.dumps({**asdict(info), "parameters": info.parameters}, indent=2))
    else:
        _print_table(info)


def _print_table(info: ModelInfo) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    saved_by = f", saved by diffusers {info.version}" if info.version else ""
    table = Table("component", "class", "parameters", "dtype", "size", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[1].overflow = "fold"
    for column in (table.columns[2], table.columns[4]):
        column.justify = "right"
    for component in info.components:
        table.add_row(
            component.name,
            f"{component.library}.{component.class_name}" if component.library else component.class_name,
            "" if component.parameters is None else f"{component.parameters / 1e6:,.2f} M",
            ", ".join(component.dtypes),
            f"{component.bytes / 1e6:,.1f} MB" if component.bytes else "",
        )
    table.add_section()
    size = sum(component.bytes for component in info.components)
    table.add_row("all", "", f"{info.parameters / 1e6:,.2f} M", "", f"{size / 1e6:,.1f} MB")

    settings = Table(box=None, show_header=False)
    for component in info.components:
        for number, (name, value) in enumerate(component.settings.items()):
            settings.add_row(component.name if number == 0 else "", name, escape(json.dumps(value)))
    console = Console()
    console.print(
        escape(f"{info.source}: {info.pipeline or 'a single component'}{saved_by}"), highlight=False
    )
    console.print(table)
    console.print(settings)
