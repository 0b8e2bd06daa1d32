"""The command `ltx-diffusers`: gathers the commands, one file each, and turns errors into one line.

A command file defines a function `command`, or a Typer app `app` if it has subcommands, and imports what is
heavy inside its functions: `--help` must answer at once.
"""

from __future__ import annotations

import importlib
import logging
import platform
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated

import typer
from typer.exceptions import TyperException

from .. import __version__
from ..errors import LTXError

_COMMANDS = (
    "generate",
    "long",
    "edit",
    "reconstruct",
    "info",
    "convert",
    "lora",
    "push",
    "pull",
    "plugins",
    "data",
    "precompute",
    "train",
    "evaluate",
)

# Libraries that warn of things that no user of a command can act on: while they are imported (torchao of its kernels
# for other machines), or of each attempt to reach the Hub, the last of which is an error anyway.
_CHATTY = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao", "huggingface_hub.utils._http")

_STACK = ("diffusers", "transformers", "torch")

EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


@dataclass
class _Settings:
    """What the options before the command said."""

    verbose: bool = False


def build_app() -> typer.Typer:
    """The command line as a Typer app, with every command registered."""
    app = typer.Typer(
        help="LTX-Video: make videos from prompts and images, train, measure and inspect models.",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        add_completion=False,
    )
    app.callback(invoke_without_command=True)(_options)
    for name in _COMMANDS:
        module = importlib.import_module(f"{__package__}.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(module.command)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the entry point of `ltx-diffusers` and of `python -m ltx_diffusers`.

    Args:
        arguments: Words after the program's name; those of the process if None.

    Returns:
        Exit code: 0 on success, 2 for bad input (an `LTXError`, an unknown command or option), 130 when
        interrupted, 1 for anything else.
    """
    settings = _Settings()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = build_app()(
                args=None if arguments is None else list(arguments),
                prog_name="ltx-diffusers",
                standalone_mode=False,
                obj=settings,
            )
            return code if isinstance(code, int) else 0
        except (LTXError, TyperException) as error:
            text = error.format_message() if isinstance(error, TyperException) else str(error)
            text = text.replace(": Value error, ", ": ")  # how pydantic begins what Typer hands on
            return _fail(text, EXIT_BAD_INPUT, settings)
        except (KeyboardInterrupt, typer.Abort):
            return _fail("interrupted", EXIT_INTERRUPTED, settings)
        except Exception as error:
            hint = "" if settings.verbose else " (ltx-diffusers -v ... shows where)"
            return _fail(f"{type(error).__name__}: {error}{hint}", EXIT_FAILURE, settings)


def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the versions and exit.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show tracebacks of errors.")] = False,
) -> None:
    context.obj.verbose = verbose
    if not verbose:
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
    if version:
        stack = ", ".join(f"{name} {metadata.version(name)}" for name in _STACK)
        typer.echo(f"ltx-diffusers {__version__} ({stack}, Python {platform.python_version()})")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


def _fail(message: str, code: int, settings: _Settings) -> int:
    if settings.verbose:
        traceback.print_exc()
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    typer.echo(f"warning: {' '.join(str(message).split())}", err=True)
