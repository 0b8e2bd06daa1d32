"""The documentation names things that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named_tests() -> list[tuple[str, str]]:
    found = {match for page in PAGES for match in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text())}
    return sorted(found)


@pytest.mark.parametrize(("path", "name"), named_tests())
def test_a_test_that_the_docs_name_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_docs_name_tests() -> None:
    assert len(named_tests()) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_are_commands(page: Path) -> None:
    """Every `ltx-diffusers NAME` in a code block names a command."""
    from ltx_diffusers.cli.app import build_app

    app = build_app()
    commands = {command.name for command in app.registered_commands} | {
        group.name for group in app.registered_groups
    }
    blocks = "\n".join(re.findall(r"```bash\n(.+?)```", page.read_text(), re.DOTALL))
    used = set(re.findall(r"(?:^|&& )ltx-diffusers (?:-v )?(\w[\w-]*)", blocks, re.MULTILINE))
    assert used <= commands
