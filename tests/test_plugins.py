"""Loading plugins by entry point: what registers, what fails, what is listed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from ltx_diffusers import plugins
from ltx_diffusers.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable folder for plugin modules; the once-only load is undone before and after."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    plugins.load_plugins.cache_clear()
    yield tmp_path
    plugins.load_plugins.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]


def declare(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    entries = [metadata.EntryPoint(name, value, plugins.PLUGIN_GROUP) for name, value in targets.items()]
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: entries)


def test_a_callable_is_called_and_a_module_is_imported(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "plugin_called.py").write_text("done = []\ndef register():\n    done.append(1)\n")
    (package / "plugin_imported.py").write_text("import sys\nsys.modules['plugin_called_by_import'] = 1\n")
    declare(monkeypatch, a="plugin_called:register", b="plugin_imported")

    loaded = plugins.load_plugins()
    plugins.load_plugins()

    assert [(plugin.name, plugin.error) for plugin in loaded] == [("a", None), ("b", None)]
    assert sys.modules["plugin_called"].done == [1]  # once, though loaded twice
    assert "plugin_called_by_import" in sys.modules


def test_a_failing_plugin_is_named_and_the_others_load(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "plugin_broken.py").write_text("def register():\n    raise RuntimeError('no such device')\n")
    (package / "plugin_good.py").write_text("done = []\ndef register():\n    done.append(1)\n")
    declare(
        monkeypatch, broken="plugin_broken:register", missing="plugin_absent", good="plugin_good:register"
    )

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = {plugin.name: plugin for plugin in plugins.load_plugins()}

    messages = [str(warning.message) for warning in caught if warning.category is plugins.PluginWarning]
    assert len(messages) == 2
    assert any("'broken'" in message and "RuntimeError: no such device" in message for message in messages)
    assert any("'missing'" in message and "plugin_absent" in message for message in messages)
    assert sys.modules["plugin_good"].done == [1]
    assert loaded["good"].error is None
    assert loaded["broken"].error == "RuntimeError: no such device"


def test_all_registries_are_gathered() -> None:
    found = plugins.registries()
    assert set(found) == {
        "conditions",
        "guidances",
        "samplers",
        "editors",
        "timestep_densities",
        "schedules",
        "objectives",
        "autoencoders",
        "discriminators",
        "data_readers",
        "filters",
        "loss_weightings",
        "measures",
    }
    assert all(isinstance(registry, Registry) for registry in found.values())


def test_entries_tell_where_they_come_from() -> None:
    entries = {(entry.registry, entry.name): entry for entry in plugins.registered_entries()}
    assert entries["conditions", "first-frame"].origin == "ltx-diffusers"
    own = [entry for entry in entries.values() if entry.origin == "ltx-diffusers"]
    assert len(own) > 10
    assert all(entry.summary for entry in own), "every entry needs a docstring"
