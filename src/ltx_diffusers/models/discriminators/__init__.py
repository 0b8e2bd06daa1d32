"""Discriminators for adversarial training, by name in the registry `discriminators`.

An entry is called with `in_channels` and its own settings and gives a module: videos (B, in_channels, F, H, W) in,
logits (B, ...) out, one for each patch that it judges. It must take pictures (F = 1) too, and must not mix samples.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import RegistrationError
from ...registry import Registry


def _check_callable(name: str, entry: object) -> None:
    if not callable(entry):
        raise RegistrationError(
            f"the discriminator {name!r} can't be built", got=repr(entry), expected="a class or a function"
        )


discriminators: Registry[Callable] = Registry(
    "discriminator", _check_callable, builtins=(f"{__name__}.patch",)
)

__all__ = ["discriminators"]
