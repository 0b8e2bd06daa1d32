"""What a layout has no place for, kept in the metadata of its weight files.

Other loaders pass over metadata that they don't know. The entry "ltx_diffusers" is JSON, an object of objects:

- by kind of part, and for "scheduler": fields of our config that would not come back from the official one, such as a
  fine-tune's default size or guidance;
- "release": the release's name, where it is known;
- "statistics": see `kept_statistics`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError

ENTRY = "ltx_diffusers"
"""Name of the metadata's entry."""

SCHEDULER, RELEASE, STATISTICS = "scheduler", "release", "statistics"
"""Objects in it, besides those of the parts."""


def unstated(config: Mapping[str, Any], back: Mapping[str, Any], model: type) -> dict[str, Any]:
    """Fields of a config that the official one, read again, doesn't give back. None states nothing.

    Args:
        config: Ours.
        back: What our reader makes of the official config written for it.
        model: Our class, for the defaults of fields that `back` leaves out.
    """
    defaults = _defaults(model)
    return {
        name: value
        for name, value in config.items()
        if name in defaults and value is not None and _plain(back.get(name, defaults[name])) != _plain(value)
    }


def read_settings(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entry of a file's metadata: fields by part; {} if there is none.

    Raises:
        CheckpointError: If it isn't JSON of that form.
    """
    text = metadata.get(ENTRY, "{}")
    try:
        content = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"the metadata's {ENTRY} isn't JSON", got=str(error)[:100]) from None
    if not isinstance(content, dict) or not all(isinstance(fields, dict) for fields in content.values()):
        raise CheckpointError(f"the metadata's {ENTRY} must hold objects by part", got=text[:100])
    return content


def with_settings(config: Mapping[str, Any], fields: Mapping[str, Any], model: type) -> dict[str, Any]:
    """A config with the fields of `read_settings` for its part.

    Raises:
        CheckpointError: If our class has no such field.
    """
    unknown = sorted(fields.keys() - _defaults(model).keys())
    if unknown:
        raise CheckpointError(
            f"the metadata's {ENTRY} has a field that {model.__name__} lacks",
            got=unknown[0],
            fix="the file may be of a newer version of this library",
        )
    return {**config, **fields}


def _defaults(model: type) -> dict[str, Any]:
    parameters = inspect.signature(model.__init__).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name != "self"}


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value))
