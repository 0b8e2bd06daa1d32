"""Settings of the released transformers, as data.

Tensors of all 2B releases have the same shapes, and so have those of all 13B releases. What tells releases of one
size apart is `causal_temporal_positioning`: False for 0.9.0 and 0.9.1, True for 0.9.5 and later, so also for
every 13B. It isn't part of these settings, so that nobody gets one silently:
`LTXTransformer3DModel(**RELEASED["2b"], causal_temporal_positioning=True)`.
"""

from __future__ import annotations

from types import MappingProxyType

RELEASED = MappingProxyType(
    {
        # 1.9234 billion parameters in 715 tensors; releases 0.9.0 to 0.9.6, and the distilled 2B of 0.9.8.
        "2b": MappingProxyType(
            {
                "in_channels": 128,
                "out_channels": 128,
                "num_attention_heads": 32,
                "attention_head_dim": 64,
                "cross_attention_dim": 2048,
                "num_layers": 28,
                "caption_channels": 4096,
            }
        ),
        # 13.0426 billion parameters in 1215 tensors; releases 0.9.7 and 0.9.8.
        "13b": MappingProxyType(
            {
                "in_channels": 128,
                "out_channels": 128,
                "num_attention_heads": 32,
                "attention_head_dim": 128,
                "cross_attention_dim": 4096,
                "num_layers": 48,
                "caption_channels": 4096,
            }
        ),
    }
)
