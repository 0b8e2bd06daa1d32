"""A public function that raises one of our errors says so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "ltx_diffusers"
BUILDERS = ("__init__", "__post_init__")
# The docstrings of commands are their help texts.
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if path.parent != SOURCE / "cli"]


def public_functions(
    body: list[ast.stmt], owner: ast.ClassDef | None = None
) -> Iterator[tuple[str, str, ast.AST]]:
    """Name, docstring and node of each public function; a class's docstring also speaks for what builds it."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, node)
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name in BUILDERS):
            docs = [ast.get_docstring(node) or ""]
            if owner is not None and node.name in BUILDERS:
                docs.append(ast.get_docstring(owner) or "")
            yield node.name, "\n".join(docs), node


def silent_raisers(source: str) -> list[str]:
    """Public functions with a `raise` of a new error and nothing about it in their docstring."""
    return [
        name
        for name, docs, node in public_functions(ast.parse(source).body)
        if any(isinstance(child, ast.Raise) and child.exc is not None for child in ast.walk(node))
        and not re.search(r"\b(raises?|errors)\b", docs, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_errors_are_documented(path: Path) -> None:
    silent = silent_raisers(path.read_text())
    assert not silent, f"{path.name}: no `Raises:` in the docstring of {', '.join(silent)}"


def test_the_check_finds_silent_raisers() -> None:
    source = '''
def loud():
    """Does it. Raises: InputError."""
    raise InputError("no")
def silent():
    """Does it."""
    raise InputError("no")
def again():
    """Passes on what it met."""
    try:
        silent()
    except InputError:
        raise
def _private():
    raise InputError("no")
class Loud:
    """Raises: InputError."""
    def __init__(self):
        raise InputError("no")
    def method(self):
        """Does it."""
        raise InputError("no")
'''
    assert silent_raisers(source) == ["silent", "method"]
