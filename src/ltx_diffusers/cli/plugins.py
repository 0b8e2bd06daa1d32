"""`ltx-diffusers plugins`: what is registered, and which package it comes from."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import groupby
from operator import attrgetter
from typing import Annotated

import typer


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List everything registered (conditions, schedules, objectives, ...) with the package it comes from."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ..plugins import load_plugins, registered_entries

    plugins, entries = load_plugins(), registered_entries()
    if as_json:
        listing = {
            "plugins": [asdict(plugin) for plugin in plugins],
            "entries": [asdict(entry) for entry in entries],
        }
        typer.echo(json.dumps(listing, indent=2))
        return

    table = Table("name", "from", "what it is", box=SIMPLE_HEAD)
    for column in table.columns[:2]:
        column.no_wrap = True
    for registry, group in groupby(entries, key=attrgetter("registry")):
        table.add_row(f"[bold]{registry}[/bold]")
        for entry in group:
            table.add_row(f"  {entry.name}", entry.origin, escape(entry.summary))
    console = Console()
    console.print(table)
    for plugin in plugins:
        state = f"[red]not loaded: {escape(plugin.error)}[/red]" if plugin.error else "loaded"
        console.print(f"plugin {plugin.name} ({plugin.distribution} {plugin.version}): {state}")
    if not plugins:
        console.print("no plugin packages are installed", style="dim")
