"""Things that must agree with each other: versions, README and CI, and how light an import is."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import ltx_diffusers

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "av")


def pyproject_field(name: str) -> str:
    return re.search(rf'^{name} = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


def test_versions_agree() -> None:
    changelog = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert ltx_diffusers.__version__ == pyproject_field("version") == changelog


def test_every_direct_dependency_is_pinned_in_the_constraints() -> None:
    pinned = {
        re.split("==", line)[0].strip().lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    requirements = metadata.requires("ltx-diffusers")
    names = {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower() for requirement in requirements}
    assert names - {"ltx-diffusers"} - pinned == set()


def test_ci_finds_the_readmes_two_commands() -> None:
    script = ROOT / ".ci" / "readme_commands.py"
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    generate, tests = found.stdout.splitlines()
    assert generate.startswith("pip install -c constraints.txt . && ltx-diffusers generate ")
    assert tests.startswith('pip install -c constraints.txt -e ".[test]" && ')
    assert tests.endswith("&& pytest")
    readme = (ROOT / "README.md").read_text()
    assert generate in readme.replace(" \\\n  ", " ")
    assert tests in readme.replace(" \\\n  ", " ")


@pytest.mark.parametrize(
    "code",
    [
        "import ltx_diffusers",
        "import ltx_diffusers.cli.app as app; app.build_app()",
        "import ltx_diffusers.cli.app as app; assert app.main(['--help']) == 0",
        "import ltx_diffusers.cli.app as app; assert app.main(['generate', '--help']) == 0",
        "import ltx_diffusers.cli.app as app; assert app.main(['--version']) == 0",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    check = f"{code}\nimport sys\nprint('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "heavy: []"
