"""T5 encoders in ComfyUI's all-in-one files: their names there, and their config, which those files don't hold."""

from __future__ import annotations

import re
from typing import Any

from ..errors import CheckpointError
from .describe import Part
from .tensors import TensorSource

COMFY_PREFIX = "text_encoders.t5xxl.transformer."
"""What ComfyUI's checkpoint loader looks for; behind it, names are those of Transformers' T5EncoderModel."""

T5_ENCODER = ("transformers", "T5EncoderModel")
"""Library and class of LTX-Video's text encoder."""

_INSIDE = "t5xxl.transformer."
_BLOCK = re.compile(r"encoder\.block\.(\d+)\.")
_FIRST = "encoder.block.0.layer"
_COPY_OF_SHARED = "encoder.embed_tokens.weight"


def text_encoder_part(part: Part, source: TensorSource) -> Part:
    """A single file's text encoder with the names and config of Transformers' T5EncoderModel.

    Args:
        part: As `describe` lists it.
        source: The file.

    Raises:
        CheckpointError: If it isn't a T5 encoder of the version 1.1, the kind that LTX-Video uses.
    """
    inside = {name.removeprefix(_INSIDE): stored for name, stored in part.names.items()}
    names = {
        name: stored
        for name, stored in inside.items()
        if (name == "shared.weight" or name.startswith("encoder.")) and name != _COPY_OF_SHARED
    }
    dropped = [stored for name, stored in inside.items() if name not in names]
    return Part(part.kind, _config(names, source), names, dropped)


def _config(names: dict[str, str], source: TensorSource) -> dict[str, Any]:
    """Transformers' config, from the shapes."""
    attention, gate = f"{_FIRST}.0.SelfAttention", f"{_FIRST}.1.DenseReluDense.wi_0.weight"
    needed = ("shared.weight", f"{attention}.q.weight", f"{attention}.relative_attention_bias.weight", gate)
    missing = [name for name in needed if name not in names]
    if missing:
        raise CheckpointError(
            f"the text encoder of {source.path} isn't a T5 encoder of version 1.1", got=f"no {missing[0]}"
        )
    shapes = [source.info(names[name]).shape for name in needed]
    if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[1][0] % shapes[2][1]:
        raise CheckpointError(f"the text encoder of {source.path} has impossible shapes", got=shapes)
    (vocabulary, width), (inner, _), (buckets, heads), (feed_forward, _) = shapes
    return {
        "architectures": [T5_ENCODER[1]],
        "model_type": "t5",
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": feed_forward,
        "num_layers": len({match[1] for name in names if (match := _BLOCK.match(name))}),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": False,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
