"""Settings that Diffusers' classes lack, recorded in the configs of those classes.

Diffusers passes over entries of a config whose names begin with "_", without a warning, and keeps them when it saves
again. So a folder with Diffusers' class names can tell its classes what they know and ours all the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECORD = "_ltx_diffusers"
"""The entry of a config of Diffusers' that holds the settings of ours."""


def with_recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the settings of its record, if it has one, in their places."""
    plain = {name: value for name, value in config.items() if name != RECORD}
    record = config.get(RECORD)
    return plain | dict(record) if isinstance(record, Mapping) else plain


class ReadsRecordedSettings:
    """Makes a model's class read recorded settings; stands before `ConfigMixin` among the bases."""

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """Arguments of the class, what is left over, and what is kept though unused, from a config."""
        return super().extract_init_dict(with_recorded(config_dict), **kwargs)
