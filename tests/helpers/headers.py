"""Checkpoints of any size that have no bytes."""

from __future__ import annotations

from pathlib import Path

import torch

from ltx_diffusers.conversion.safetensors_header import TensorInfo
from ltx_diffusers.conversion.tensors import TensorSource


class Header(TensorSource):
    """What a file with these tensors would say of them."""

    def __init__(self, shapes, metadata=None, path="x.safetensors", dtype=torch.bfloat16):
        infos = {
            name: TensorInfo(name, dtype, shape, torch.Size(shape).numel() * dtype.itemsize)
            for name, shape in shapes.items()
        }
        super().__init__(Path(path), metadata or {}, infos)

    def load(self, name):
        raise AssertionError("describing loads nothing")

    def close(self):
        """Nothing is open."""
