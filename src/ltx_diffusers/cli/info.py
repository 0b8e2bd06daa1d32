"""`ltx-diffusers info`: what is in a model or a checkpoint file, without loading it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..hub.file_inspection import FileInfo
    from ..hub.inspection import Component, ModelInfo

_SHOWN = 200
"""Characters of a remark in a file's metadata that are shown."""


def command(
    model: Annotated[
        str, typer.Argument(help="A checkpoint file, a folder, a repository owner/name, or 'embedded'.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Open .ckpt, .pt, .pth and .bin files, weights only.")
    ] = False,
) -> None:
    """Show a model's parts, classes, parameters and settings, without loading its weights."""
    if Path(model).expanduser().is_file():
        from ..hub.file_inspection import inspect_file

        info = inspect_file(Path(model).expanduser(), allow_pickle=allow_pickle)
        heading, remarks = _heading_of_file(info), _remarks_of_file(info)
    else:
        from ..hub.inspection import inspect_model

        info = inspect_model(model)
        heading, remarks = _heading_of_model(info), []
    presets = _presets_of(info.components)
    if as_json:
        content = {**asdict(info), "parameters": info.parameters}
        typer.echo(json.dumps(content | ({} if presets is None else {"presets": presets}), indent=2))
    else:
        _print_tables(heading, info.components, info.parameters, remarks + _remarks_of_presets(presets))


def _heading_of_model(info: ModelInfo) -> str:
    saved_by = f", saved by diffusers {info.version}" if info.version else ""
    return f"{info.source}: {info.pipeline or 'a single component'}{saved_by}"


def _heading_of_file(info: FileInfo) -> str:
    if info.version is not None:
        release = f"release {info.version} (told by its {info.version_from})"
    elif info.candidates:
        release = f"one of the releases {', '.join(info.candidates)}"
    else:
        release = "none of the releases"
    return f"{info.source}: {info.layout} layout, {info.precision}, {release}"


def _remarks_of_file(info: FileInfo) -> list[tuple[str, str, str]]:
    """Rows with the metadata's names and values; the config is shown with the components."""
    remarks = []
    for name, value in info.metadata.items():
        text = "as above" if name == "config" else " ".join(str(value).split())
        remarks.append(
            (name, text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)")
        )
    if info.unexpected:
        remarks.append(("in no part", f"{len(info.unexpected)} tensors, such as {info.unexpected[0]}"))
    return [("metadata" if number == 0 else "", *remark) for number, remark in enumerate(remarks)]


def _presets_of(components: Sequence[Component]) -> dict[str, Any] | None:
    """The presets made for the model's transformer, and the one that is picked; None without a transformer."""
    from ..pipelines.preset_choice import fitting_presets, preset_name_of

    settings = {component.name: component.settings for component in components}
    transformer = settings.get("transformer")
    if transformer is None:
        return None
    # Without its scheduler a distilled model looks like any other.
    picked = preset_name_of(transformer, settings["scheduler"]) if "scheduler" in settings else None
    return {"picked": picked, "fit": list(fitting_presets(transformer))}


def _remarks_of_presets(presets: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """How `generate` runs the model, as a row of the settings."""
    if presets is None:
        return []
    if not presets["fit"]:
        return [("generate", "preset", "none: not of a released size; its own settings are used")]
    if presets["picked"] is None:
        return [("generate", "preset", f"by the release: {' or '.join(presets['fit'])}")]
    others = [name for name in presets["fit"] if name != presets["picked"]]
    return [
        ("generate", "preset", presets["picked"]),
        *([("", "others that fit", ", ".join(others))] if others else []),
    ]


def _print_tables(
    heading: str, components: Sequence[Component], parameters: int, remarks: Sequence[tuple[str, str, str]]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("component", "class", "parameters", "dtype", "size", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[1].overflow = "fold"
    for column in (table.columns[2], table.columns[4]):
        column.justify = "right"
    for component in components:
        table.add_row(
            component.name,
            f"{component.library}.{component.class_name}" if component.library else component.class_name,
            "" if component.parameters is None else f"{component.parameters / 1e6:,.2f} M",
            ", ".join(component.dtypes),
            f"{component.bytes / 1e6:,.1f} MB" if component.bytes else "",
        )
    table.add_section()
    size = sum(component.bytes for component in components)
    table.add_row("all", "", f"{parameters / 1e6:,.2f} M", "", f"{size / 1e6:,.1f} MB")

    settings = Table(box=None, show_header=False)
    for component in components:
        for number, (name, value) in enumerate(component.settings.items()):
            settings.add_row(component.name if number == 0 else "", name, escape(json.dumps(value)))
    for group, name, value in remarks:
        settings.add_row(group, escape(name), escape(value))
    console = Console()
    console.print(escape(heading), highlight=False)
    console.print(table)
    console.print(settings)
