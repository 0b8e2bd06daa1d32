"""Registries: how conditions, guidance, densities, schedules, objectives and the rest are found by name.

Built-ins and plugins go through the same call. A name clash raises; an unknown name is answered with near names.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Generic, TypeVar

from .errors import RegistrationError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named objects of one kind.

    Args:
        kind: What the entries are, in the singular, for messages ("objective").
        check: Called with each new entry; raises `RegistrationError` if it isn't usable as this kind.
        builtins: Modules whose import registers the built-in entries. They are imported when the registry is first
            used, so that a registry can stand in a package that must stay light.

    Example:
        >>> objectives = Registry("objective")
        >>> @objectives.register("flow-matching")
        ... class FlowMatching: ...
        >>> objectives.get("flow-matching")
    """

    def __init__(
        self, kind: str, check: Callable[[str, T], None] | None = None, builtins: tuple[str, ...] = ()
    ) -> None:
        self.kind = kind
        self._check = check
        self._unloaded = builtins
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry under `name`.

        Raises:
            RegistrationError: If the name is taken by another object, or the entry isn't of this kind.
        """

        def add(entry: T) -> T:
            self._load_builtins()
            known = self._entries.get(name)
            if known is not None and known is not entry:
                raise RegistrationError(
                    f"the {self.kind} name {name!r} is taken by {_where(known)}",
                    got=_where(entry),
                    fix="register it under another name",
                )
            if self._check is not None:
                self._check(name, entry)
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            UnknownNameError: If there is none; the message lists near names, or all.
        """
        self._load_builtins()
        try:
            return self._entries[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.5)
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}",
                expected=None if near else f"one of {', '.join(self.list()) or '(none)'}",
                fix=f"did you mean {' or '.join(near)}?" if near else None,
            ) from None

    def list(self) -> list[str]:
        """All names, sorted."""
        self._load_builtins()
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        self._load_builtins()
        return name in self._entries

    def origin(self, name: str) -> str:
        """The module that the entry comes from, to tell plugins from built-ins.

        Raises:
            UnknownNameError: If there is no such entry.
        """
        return getattr(self.get(name), "__module__", type(self.get(name)).__module__)

    def _load_builtins(self) -> None:
        modules, self._unloaded = self._unloaded, ()
        try:
            for module in modules:
                importlib.import_module(module)
        except BaseException:
            self._unloaded = modules  # the next look-up meets the same error, not an unknown name
            raise


def _where(entry: object) -> str:
    owner = entry if isinstance(entry, type) or callable(entry) else type(entry)
    return f"{getattr(owner, '__module__', '?')}.{getattr(owner, '__qualname__', owner)}"
