"""Types of the values in a config, checked against our class before anything is built from them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from ..errors import CheckpointError

MAX_SIZE = 2**20
"""No whole number in a config of ours is as large; what is built from one stays small."""


def check_types(what: str, cls: type, config: Mapping[str, Any]) -> None:
    """Check that every value of a config has the type of the argument of `cls` that it is for.

    Args:
        what: Whose config it is, for the message.
        cls: Our class; its `__init__` says the types.
        config: Arguments for it.

    Raises:
        CheckpointError: If a value has another type, is no argument, or is an absurd number.
    """
    try:
        _model(cls).model_validate_json(json.dumps(dict(config)))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{what} has a wrong value: {place[:100]}",
            got=str(first["input"])[:100],
            expected=first["msg"][:200],
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} isn't made of plain values", got=str(error)[:100]) from None
    for name, value in config.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, int) and not 0 <= number < MAX_SIZE:
                raise CheckpointError(
                    f"{what} has an absurd number: {name}", got=str(number)[:50], expected=f"0 to {MAX_SIZE}"
                )


@cache
def _model(cls: type) -> type[BaseModel]:
    """The arguments of a class as a strict pydantic model."""
    init = inspect.unwrap(cls.__init__)
    hints = get_type_hints(init)
    fields = {
        name: (hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(init).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }
    strict = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
    return create_model(cls.__name__, __config__=strict, **fields)
