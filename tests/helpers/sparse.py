"""Checkpoints of the released sizes that take no room: real headers, and tensors that are holes in the file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from helpers.checkpoints import official_config, official_tensors

from ltx_diffusers import AutoencoderKLLTX, LTXTransformer3DModel
from ltx_diffusers.conversion.releases import RELEASES
from ltx_diffusers.models.autoencoders.released import RELEASED as VAES
from ltx_diffusers.models.transformers.released import RELEASED as TRANSFORMERS


def sparse_checkpoint(path: Path, release: str) -> None:
    """An official bfloat16 file of a release's size; its tensors read as zeros."""
    known = RELEASES[release]
    with torch.device("meta"):
        transformer = LTXTransformer3DModel(
            **TRANSFORMERS[known.size], causal_temporal_positioning=known.causal
        )
        vae = AutoencoderKLLTX(**VAES[known.vae])
        tensors = official_tensors(transformer, vae)
    header: dict[str, object] = {
        "__metadata__": {"config": json.dumps(official_config(transformer, vae, release))}
    }
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
