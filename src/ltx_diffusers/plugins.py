"""Plugins: installed packages that add conditions, densities, objectives and the rest to the registries.

A package names its plugins in the entry-point group `ltx_diffusers.plugins`. Each entry point is either a
callable, which is called without arguments and registers things, or a module whose import registers them:

    [project.entry-points."ltx_diffusers.plugins"]
    my-plugin = "my_package.plugin:register"

The command line loads plugins by itself; Python code calls `load_plugins()` once.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from types import ModuleType

from .registry import Registry

PLUGIN_GROUP = "ltx_diffusers.plugins"

_REGISTRIES = {
    "conditions": "denoising.conditions:conditions",
    "guidances": "denoising.guidance:guidances",
    "samplers": "denoising.samplers:samplers",
    "editors": "denoising.editing:editors",
    "timestep_densities": "schedulers.densities:timestep_densities",
    "schedules": "functional.sigmas:schedules",
    "objectives": "objectives:objectives",
    "loss_weightings": "training.loss_weighting:loss_weightings",
    "autoencoders": "models.autoencoders:autoencoders",
    "discriminators": "models.discriminators:discriminators",
    "data_readers": "data:data_readers",
    "filters": "data.filters:filters",
    "measures": "evaluation:measures",
}


class PluginWarning(UserWarning):
    """An installed plugin could not be loaded; the library works on without it."""


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group, and what came of loading it.

    Attributes:
        name: Name of the entry point.
        target: What it points to, as `package.module:attribute` or `package.module`.
        distribution: Name of the installed distribution that declares it.
        version: Version of that distribution.
        error: Why it could not be loaded, None if it was.
    """

    name: str
    target: str
    distribution: str
    version: str
    error: str | None = None


@dataclass(frozen=True)
class RegisteredEntry:
    """One registered thing, as `ltx-diffusers plugins` lists it.

    Attributes:
        registry: Which registry it is in, a key of `registries()`.
        name: Its name there.
        origin: Distribution that it comes from, "ltx-diffusers" for built-ins; the module if there is none.
        summary: First line of its docstring.
    """

    registry: str
    name: str
    origin: str
    summary: str


@lru_cache(maxsize=1)
def load_plugins() -> tuple[Plugin, ...]:
    """Load every installed plugin, once per process.

    A plugin that fails is reported by a `PluginWarning` that names it; the others still load.

    Returns:
        All plugins that were found, in order of their names, the failed ones with their error.
    """
    found = sorted(metadata.entry_points(group=PLUGIN_GROUP), key=lambda entry: (entry.name, entry.value))
    return tuple(_load(entry) for entry in found)


def registries() -> dict[str, Registry]:
    """All registries by name, each with its built-ins. Imports the modules that hold them.

    Registered plugins are among the entries once `load_plugins()` has run.
    """
    gathered = {}
    for name, target in _REGISTRIES.items():
        module, attribute = target.split(":")
        gathered[name] = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
    return gathered


def registered_entries() -> list[RegisteredEntry]:
    """Everything registered, plugins included, in order of registry and name."""
    load_plugins()
    return [
        RegisteredEntry(kind, name, _distribution_of(registry.origin(name)), _summary(registry.get(name)))
        for kind, registry in registries().items()
        for name in registry.list()
    ]


def _load(entry: metadata.EntryPoint) -> Plugin:
    distribution, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "unknown")
    error = None
    try:
        target = entry.load()
        if not isinstance(target, ModuleType):
            target()
    except Exception as problem:  # whatever a foreign package does wrong, the library must go on
        error = f"{type(problem).__name__}: {problem}"
        warnings.warn(
            f"plugin {entry.name!r} ({entry.value}) of the package {distribution} {version} "
            f"could not be loaded and is left out: {error}",
            PluginWarning,
            stacklevel=4,
        )
    return Plugin(entry.name, entry.value, distribution, version, error)


@lru_cache(maxsize=1)
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _distribution_of(module: str) -> str:
    top = module.partition(".")[0]
    if top == __package__:
        return "ltx-diffusers"
    return _distributions().get(top, [module])[0]


def _summary(entry: object) -> str:
    documented = entry if callable(entry) or isinstance(entry, ModuleType) else type(entry)
    lines = (inspect.getdoc(documented) or "").strip().splitlines()
    return lines[0] if lines else ""
