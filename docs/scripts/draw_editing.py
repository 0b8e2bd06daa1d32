"""Run the commands of docs/how-to/editing.md and draw what they make: docs/assets/editing.png."""

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
PAGE, TARGET = DOCS / "how-to" / "editing.md", DOCS / "assets" / "editing.png"
COLUMNS = 9


def main() -> None:
    """Make the first video of the page and its edits."""
    commands = re.search(r"```bash\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1].splitlines()
    rows, titles = [], []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for command in commands:
            words = shlex.split(command)[1:]
            if code := run(words):
                raise SystemExit(f"{command} ended with {code}")
            rows.append(read_video(words[words.index("-o") + 1])[0])
            prompt = words[words.index("--prompt") + 1] if "--prompt" in words else words[1]
            method = words[words.index("--method") + 1] if "--method" in words else "flow-edit"
            titles.append(prompt if words[0] == "generate" else f"{method}: {prompt}")
        os.chdir(DOCS)
    contact_sheet(rows, titles, COLUMNS, TARGET)


if __name__ == "__main__":
    main()
