"""The shape of the package: imports go down one list only, files stay short, folders keep safe names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "ltx_diffusers"
ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / PACKAGE
MODULES = sorted(SOURCE.rglob("*.py"))

# A module may import from its own entry and those above it, nothing below.
ORDER = (
    "errors",
    "geometry",
    "registry",
    "embedded",
    "functional",
    "models",
    "schedulers",
    "denoising",
    "conversion",
    "objectives",
    "integration",
    "pipelines",
    "data",
    "training",
    "evaluation",
    "hub",
    "plugins",
    "cli",
)
# `__init__` is the lazy front door over everything, `__main__` the command line's.
FRONT_DOORS = ("__init__", "__main__")
MAX_LINES = 500


def entry_of(path: Path) -> str:
    """The entry of ORDER that a source file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_entries(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """Line and entry of each import from this package, also in functions and under TYPE_CHECKING."""
    package = [PACKAGE, *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            targets = [f"{prefix}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == PACKAGE:
                yield node.lineno, parts[1] if len(parts) > 1 else ""


def import_problems(source: str, path: Path) -> list[str]:
    """What is wrong with the imports of one file."""
    own = entry_of(path)
    if own in FRONT_DOORS:
        return []
    problems = []
    for line, target in imported_entries(source, path):
        if target == "__version__":
            continue
        if target not in ORDER:
            problems.append(
                f"line {line}: goes through the front door ({PACKAGE}.{target}); import the module"
            )
        elif ORDER.index(target) > ORDER.index(own):
            problems.append(f"line {line}: {own} imports {target}, which is below it")
    return problems


def test_every_module_is_in_the_order() -> None:
    entries = {entry_of(path) for path in MODULES}
    assert entries - set(FRONT_DOORS) <= set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_the_list(path: Path) -> None:
    assert import_problems(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    "line",
    [
        "from ..training import loop",
        "from ltx_diffusers.cli import app",
        "import ltx_diffusers.pipelines.pipeline_ltx",
        "from .. import pipelines",
        "def late():\n    from ..evaluation.judge import ShapesJudge",
        "if TYPE_CHECKING:\n    from ..denoising.state import TokenState",
        "from .. import LTXPipeline",
        "import ltx_diffusers",
    ],
)
def test_the_check_sees_imports_that_go_up(line: str) -> None:
    assert import_problems(line, SOURCE / "models" / "layers.py")


@pytest.mark.parametrize("line", ["from ..errors import InputError", "from .other import x", "import torch"])
def test_the_check_allows_imports_that_go_down(line: str) -> None:
    assert import_problems(line, SOURCE / "models" / "layers.py") == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: which two ideas live in this file?"


def test_no_component_folder_has_the_name_of_a_diffusers_pipeline() -> None:
    """Diffusers records a class in `.../ltx/m.py` as one of its own pipelines, whatever the package."""
    import diffusers.pipelines

    taken = {path.name for path in Path(diffusers.pipelines.__file__).parent.iterdir() if path.is_dir()}
    folders = {path.name for path in SOURCE.rglob("*") if path.is_dir() and path.name != "__pycache__"}
    assert "ltx" in taken
    assert not folders & taken
