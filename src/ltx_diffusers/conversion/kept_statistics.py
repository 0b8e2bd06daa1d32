"""Official VAE statistics that no model uses, kept through Diffusers' layout so that official files come back whole.

They are a few hundred numbers. Diffusers' classes have no place for them, so they go into the metadata of the VAE's
weights, in the entry of `own_settings`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import CheckpointError
from .describe import Part
from .own_settings import STATISTICS, read_settings
from .renames import DROPPED_STATISTICS
from .safetensors_header import DTYPES
from .tensors import TensorSource

_GROUP = "per_channel_statistics."
_MAX_BYTES = 2**16
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def kept_statistics(part: Part, source: TensorSource) -> dict[str, torch.Tensor]:
    """The unused statistics of a VAE by their official names, from its file's tensors or metadata.

    Raises:
        CheckpointError: If the metadata's entry is damaged.
    """
    found = {}
    for stored in part.dropped:
        name = stored[stored.rfind(_GROUP) :] if _GROUP in stored else ""
        small = source.info(stored).nbytes <= _MAX_BYTES
        if name.removeprefix(_GROUP) in DROPPED_STATISTICS and small:
            found[name] = source.load(stored)
    for name, entry in read_settings(source.metadata).get(STATISTICS, {}).items():
        if name.removeprefix(_GROUP) in DROPPED_STATISTICS:
            found[name] = _from_json(name, entry)
    return found


def to_json(statistics: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Statistics as the entry of the metadata: dtype, shape and bytes of each."""
    return {
        name: {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "base64": base64.b64encode(tensor.contiguous().view(-1).view(torch.uint8).numpy()).decode(),
        }
        for name, tensor in statistics.items()
    }


def _from_json(name: str, entry: Any) -> torch.Tensor:
    try:
        data = bytearray(base64.b64decode(entry["base64"], validate=True))
        return torch.frombuffer(data, dtype=DTYPES[entry["dtype"]]).reshape(entry["shape"])
    except (TypeError, KeyError, ValueError, RuntimeError, binascii.Error) as error:
        raise CheckpointError(
            f"the metadata's statistics {name} are damaged", got=f"{type(error).__name__}: {error}"
        ) from None
