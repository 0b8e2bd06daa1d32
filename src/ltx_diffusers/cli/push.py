"""`ltx-diffusers push`: a model or a LoRA, with its card, to the Hub."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..hub.push import Upload


class Layout(Enum):
    """What `--layout` takes."""

    native = "native"
    diffusers = "diffusers"
    official = "official"


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a saved pipeline, a single part or a LoRA.")
    ],
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="Repository owner/name; made if there is none.")
    ],
    layout: Annotated[
        Layout | None,
        typer.Option(
            help="native: this library's; diffusers: loads with Diffusers alone; official: a single file. "
            "\\[default: as the folder is]"
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be uploaded; nothing is changed.")
    ] = False,
    card: Annotated[
        bool | None,
        typer.Option(
            "--card/--no-card",
            help="Make a model card, or leave the card alone. \\[default: README.md of the folder, or the "
            "repository's, or else a new one]",
            show_default=False,
        ),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="For the card: repository that the model was made from.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="For the card: the licence, such as apache-2.0.")
    ] = None,
    sample: Annotated[
        list[Path] | None, typer.Option(help="For the card: a video to show; may be given again.")
    ] = None,
    subfolder: Annotated[str | None, typer.Option(help="Folder in the repository, without a card.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
) -> None:
    """Upload a model to the Hub, in one commit. After a failure, run the same again: it goes on.

    The token is that of `hf auth login`, or HF_TOKEN.
    """
    from ..hub.facts import CardFacts
    from ..hub.push import push_folder

    stated = {
        "base_model": base_model,
        "license": license,
        "samples": {str(path.absolute()): "" for path in sample or ()},
    }
    stated = {key: value for key, value in stated.items() if value}
    upload = push_folder(
        folder,
        repository,
        layout=None if layout is None else layout.value,
        private=private or None,
        card=card,
        facts=CardFacts(**stated) if stated else None,
        dry_run=dry_run,
        subfolder=subfolder,
        message=message,
    )
    _report(upload, dry_run=dry_run)


def _report(upload: Upload, *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for name, size in upload.new.items():
        typer.echo(f"  {would}new      {size / 1e6:>12,.2f} MB  {name}")
    for name in upload.removed:
        typer.echo(f"  {would}removed  {'':>12}     {name}")
    if upload.unchanged:
        typer.echo(f"  unchanged: {len(upload.unchanged)} files")
    if upload.left_out:
        shown = ", ".join(upload.left_out[:5]) + (", ..." if len(upload.left_out) > 5 else "")
        typer.echo(f"  left out, not of the model: {shown}")
    for note in upload.notes:
        typer.echo(f"note: {note}")
    if dry_run and upload.card is not None:
        typer.echo(f"\n{upload.card}")
    what = f"{upload.what}, {len(upload.new)} new files, {upload.bytes / 1e6:,.2f} MB"
    if dry_run:
        typer.echo(f"{upload.repository}: {what}; nothing was uploaded (--dry-run)")
    elif upload.url is None:
        typer.echo(f"{upload.repository} has all of it already")
    else:
        typer.echo(f"{upload.repository}: {what}\n{upload.url}")
