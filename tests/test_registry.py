"""The registry: names, clashes, near names, checks and built-ins that are imported when first needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ltx_diffusers.errors import RegistrationError, UnknownNameError
from ltx_diffusers.registry import Registry


class First:
    """An entry."""


class Second:
    """Another."""


def test_entries_are_found_by_name_in_order() -> None:
    registry: Registry[type] = Registry("thing")
    assert registry.register("second")(Second) is Second
    registry.register("first")(First)
    assert registry.list() == ["first", "second"]
    assert registry.get("second") is Second
    assert "first" in registry and "third" not in registry


def test_a_taken_name_is_refused_and_keeps_its_owner() -> None:
    registry: Registry[type] = Registry("thing")
    registry.register("name")(First)
    registry.register("name")(First)  # the same object again is no clash: a module may be imported twice
    with pytest.raises(RegistrationError, match=r"thing name 'name' is taken by .*First; got .*Second"):
        registry.register("name")(Second)
    assert registry.get("name") is First


def test_unknown_names_are_answered_with_near_ones_or_all() -> None:
    registry: Registry[type] = Registry("thing")
    with pytest.raises(UnknownNameError, match=r"unknown thing 'x'; expected one of \(none\)"):
        registry.get("x")
    registry.register("flow-matching")(First)
    registry.register("kl")(Second)
    with pytest.raises(
        UnknownNameError, match="unknown thing 'flow-maching'; did you mean flow-matching\\?$"
    ):
        registry.get("flow-maching")
    with pytest.raises(UnknownNameError, match="expected one of flow-matching, kl"):
        registry.get("xyz")


def test_an_entry_of_the_wrong_kind_is_not_added() -> None:
    def check(name: str, entry: type) -> None:
        if not hasattr(entry, "sample"):
            raise RegistrationError(f"{name} has no sample")

    registry: Registry[type] = Registry("thing", check)
    with pytest.raises(RegistrationError, match="name has no sample"):
        registry.register("name")(First)
    assert registry.list() == []


def test_the_origin_is_the_module_of_the_class_or_of_the_objects_class() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("class")(First)
    registry.register("object")(Second())
    assert registry.origin("class") == registry.origin("object") == __name__


@pytest.mark.parametrize("use", ["get", "list", "contains", "register"])
def test_builtins_are_imported_at_the_first_use_and_hold_their_names(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry: Registry[type] = Registry("thing", builtins=("registry_builtins",))
    (tmp_path / "registry_builtins.py").write_text(
        f"import sys\nsys.modules[{__name__!r}].current.register('own')(dict)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, type(sys)(__name__)))
    monkeypatch.setattr(sys.modules[__name__], "current", registry, raising=False)
    assert "registry_builtins" not in sys.modules
    try:
        if use == "get":
            assert registry.get("own") is dict
        elif use == "list":
            assert registry.list() == ["own"]
        elif use == "contains":
            assert "own" in registry
        else:
            with pytest.raises(RegistrationError, match="is taken by builtins.dict"):
                registry.register("own")(First)
    finally:
        sys.modules.pop("registry_builtins", None)


def test_builtins_that_cannot_be_imported_are_reported_each_time():
    registry = Registry("thing", builtins=("ltx_diffusers.no_such_module",))
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            registry.get("anything")
