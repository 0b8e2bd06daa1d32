"""Options that several commands have, so that they are called and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto is a GPU if there is one.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or float16. \\[default: float32 on a CPU, bfloat16 on a GPU]"),
]
Speed = Annotated[
    str | None,
    typer.Option(
        help="exact; fast or fastest leave out what changes little: see docs/how-to/speed.md. \\[default: exact]"
    ),
]
VAEMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="What encoding and decoding may take, like 6GB. \\[default: no limit]"),
]
PromptCache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keep what the text encoder makes of prompts here, for the next time."),
]
