"""Run the commands of docs/how-to/generate.md on videos and draw what they make: docs/assets/generate.png."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path

from ltx_diffusers.cli.app import main as run
from ltx_diffusers.data.pictures import contact_sheet
from ltx_diffusers.data.video import read_video

DOCS = Path(__file__).parents[1]
PAGE, TARGET = DOCS / "how-to" / "generate.md", DOCS / "assets" / "generate.png"
COLUMNS = 9


def main() -> None:
    """Make the first video of the page and those that are made from it."""
    blocks = re.findall(r"```bash\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    first = blocks[0].strip()
    commands = [first, *next(block for block in blocks if "--extend " in block).splitlines()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for command in commands:
            words = shlex.split(command)[1:]
            if code := run(words):
                raise SystemExit(f"{command} ended with {code}")
            rows.append(read_video(words[words.index("-o") + 1])[0])
        os.chdir(DOCS)
    titles = [command.removeprefix("ltx-diffusers generate ") for command in commands]
    contact_sheet(rows, titles, COLUMNS, TARGET)


if __name__ == "__main__":
    main()
