"""Prints the README's commands, those after a `<!-- ci-command -->` mark, one a line."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"

if __name__ == "__main__":
    for block in re.findall(r"<!-- ci-command -->\s*```bash\n(.+?)\n```", README.read_text(), re.DOTALL):
        print(" ".join(block.replace("\\\n", " ").split()))  # noqa: T201
