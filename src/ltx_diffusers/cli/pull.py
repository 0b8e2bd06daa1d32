"""`ltx-diffusers pull`: a model or a LoRA from the Hub into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Repository owner/name.")],
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Folder to make. \\[default: the repository's name]"),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(help="Get just this file, or files of a pattern such as 'vae/*'; may be given again."),
    ] = None,
) -> None:
    """Download a model from the Hub, every file checked. After a failure, run the same again: it goes on.

    The token is that of `hf auth login`, or HF_TOKEN.
    """
    from ..hub.pull import pull

    found = pull(repository, folder, revision=revision, files=file or ())
    if found.left_out:
        shown = ", ".join(found.left_out[:5]) + (", ..." if len(found.left_out) > 5 else "")
        typer.echo(f"  left out, not of the model: {shown}")
    if found.was_there:
        typer.echo(f"{found.folder} has all of it already (commit {found.commit[:12]})")
        return
    size = sum(found.files.values()) / 1e6
    typer.echo(
        f"{found.folder}: {len(found.files)} files, {size:,.2f} MB, checked (commit {found.commit[:12]})"
    )
