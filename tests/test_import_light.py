"""What `import ltx_diffusers` gives, and what it leaves for later."""

from __future__ import annotations

import importlib
import subprocess
import sys
import typing

import pytest

import ltx_diffusers


def test_importing_and_listing_loads_nothing_heavy() -> None:
    code = (
        "import sys, ltx_diffusers; dir(ltx_diffusers); ltx_diffusers.__version__\n"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'numpy', 'huggingface_hub') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ltx_diffusers.__all__)
def test_public_names_resolve(name) -> None:
    assert name in dir(ltx_diffusers)
    value = getattr(ltx_diffusers, name)
    if name in ltx_diffusers._HOMES:
        assert value is getattr(importlib.import_module(ltx_diffusers._HOMES[name]), name)


def test_editors_see_the_same_names(monkeypatch) -> None:
    """The names under TYPE_CHECKING are those that resolve lazily."""
    lazy = set(ltx_diffusers._HOMES)
    monkeypatch.setattr(typing, "TYPE_CHECKING", True)
    seen = importlib.util.module_from_spec(importlib.util.find_spec("ltx_diffusers"))
    seen.__spec__.loader.exec_module(seen)
    assert lazy <= vars(seen).keys()
    assert {name for name in vars(seen) if name[0].isupper() or name in lazy} - {"TYPE_CHECKING"} == lazy


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'LTXPipelin'"):
        ltx_diffusers.LTXPipelin  # noqa: B018
