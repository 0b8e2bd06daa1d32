"""`ltx-diffusers plugins`: what is registered, and which package it comes from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List everything registered (conditions, schedules, objectives, ...) with the package it comes from."""
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

    table = Table("registry", "name", "from", "what it is")
    previous = None
    for entry in entries:
        if previous not in (None, entry.registry):
            table.add_section()
        shown = entry.registry if entry.registry != previous else ""
        table.add_row(shown, entry.name, entry.origin, escape(entry.summary))
        previous = entry.registry
    console = Console()
    console.print(table)
    for plugin in plugins:
        state = f"[red]not loaded: {escape(plugin.error)}[/red]" if plugin.error else "loaded"
        console.print(f"plugin {plugin.name} ({plugin.distribution} {plugin.version}): {state}")
    if not plugins:
        console.print("no plugin packages are installed", style="dim")
