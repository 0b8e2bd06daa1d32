"""Attention of the LTX-Video transformer: queries and keys normalised over all heads, then turned by RoPE.

The attention itself goes through Diffusers' dispatcher, so that `set_attention_backend`, the
`attention_backend` context and context parallelism act on it.
"""

from __future__ import annotations

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

from ...errors import InputError
from .cpu_attention import attend_on_cpu, takes_attention
from .layers import Linear, QueryKeyNorm, Rotary
from .sharding import gathered_by_ring

QK_NORM_EPS = 1e-5


class LTXAttnProcessor:
    """Computes `LTXAttention`. Replace it with `set_attn_processor` to change how attention is done."""

    _attention_backend = None  # set by `set_attention_backend`
    _parallel_config = None  # set by `enable_parallelism`

    def __call__(
        self,
        attn: LTXAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
        keys_values: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend from `hidden_states` to `encoder_hidden_states`, or to themselves where that is None.

        Args:
            attn: The layer whose projections are used.
            hidden_states: (B, L, C).
            encoder_hidden_states: (B, S, C_text).
            attention_mask: Additive bias (B, 1, S).
            image_rotary_emb: RoPE of queries and keys.
            keys_values: `attn.keys_values(encoder_hidden_states)`, if they are known.

        Returns:
            (B, L, C).
        """
        if keys_values is None:
            query, key, value = attn.project(hidden_states, encoder_hidden_states)
            key = attn.norm_k(key, image_rotary_emb)
        else:
            query, (key, value) = attn.to_q(hidden_states), keys_values
        query = attn.norm_q(query, image_rotary_emb)
        if attention_mask is not None:
            # One bias for all heads: it broadcasts.
            attention_mask = attention_mask[:, None].to(query.dtype)

        query, key, value = (x.unflatten(-1, (attn.heads, -1)) for x in (query, key, value))
        # Each process has the whole text, so only self-attention is shared out.
        shared = None if attn.is_cross_attention else self._parallel_config
        if shared is not None:
            key, value, shared = gathered_by_ring(key, value, shared)
        chosen = self._attention_backend is not None or shared is not None
        if not chosen and takes_attention(query, key, attention_mask):
            attended = attend_on_cpu(query, key, value)
        else:
            attended = dispatch_attention_fn(
                query,
                key,
                value,
                attn_mask=attention_mask,
                backend=self._attention_backend,
                parallel_config=shared,
            )
        return attn.project_out(attended.flatten(2).to(query.dtype))


class LTXAttention(nn.Module, AttentionModuleMixin):
    """Projections and norms of one attention layer; the processor computes it.

    Args:
        query_dim: Width C of the tokens.
        heads: Number of heads.
        dim_head: Width of a head.
        cross_attention_dim: Width of the text features; None for self-attention.
        bias: Whether the query, key and value projections have a bias.
        out_bias: Whether the output projection has one.
        qk_norm: Norm of queries and keys; "rms_norm_across_heads" is the only one that any release uses.
        processor: What computes the attention; `LTXAttnProcessor` if None.

    Raises:
        InputError: If `qk_norm` is another one.
    """

    _default_processor_cls = LTXAttnProcessor
    _available_processors = (LTXAttnProcessor,)

    def __init__(
        self,
        query_dim: int,
        heads: int,
        dim_head: int,
        cross_attention_dim: int | None = None,
        bias: bool = True,
        out_bias: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        processor: LTXAttnProcessor | None = None,
    ) -> None:
        super().__init__()
        if qk_norm != "rms_norm_across_heads":
            raise InputError("unknown qk_norm", got=repr(qk_norm), expected="'rms_norm_across_heads'")
        self.heads = heads
        self.use_bias = bias  # read by `fuse_projections`
        self.is_cross_attention = cross_attention_dim is not None  # read by Diffusers' hooks
        inner_dim = heads * dim_head
        key_dim = query_dim if cross_attention_dim is None else cross_attention_dim
        self.norm_q = QueryKeyNorm(inner_dim, eps=QK_NORM_EPS)
        self.norm_k = QueryKeyNorm(inner_dim, eps=QK_NORM_EPS)
        self.to_q = Linear(query_dim, inner_dim, bias=bias)
        self.to_k = Linear(key_dim, inner_dim, bias=bias)
        self.to_v = Linear(key_dim, inner_dim, bias=bias)
        # A list with an inactive dropout, because the released keys are `to_out.0.*`.
        self.to_out = nn.ModuleList([Linear(inner_dim, query_dim, bias=out_bias), nn.Dropout(0.0)])
        self.set_processor(processor if processor is not None else self._default_processor_cls())

    def project(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, L, C), keys and values (B, L or S, C), by the fused projections if they are fused."""
        if not self.fused_projections:
            source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            return self.to_q(hidden_states), self.to_k(source), self.to_v(source)
        if self.is_cross_attention:
            return self.to_q(hidden_states), *self.to_kv(encoder_hidden_states).chunk(2, dim=-1)
        return self.to_qkv(hidden_states).chunk(3, dim=-1)

    def keys_values(self, encoder_hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised keys and values (B, S, C) of text features, for `forward` to take again and again."""
        if self.fused_projections:
            key, value = self.to_kv(encoder_hidden_states).chunk(2, dim=-1)
        else:
            key, value = self.to_k(encoder_hidden_states), self.to_v(encoder_hidden_states)
        return self.norm_k(key), value

    def project_out(self, attended: torch.Tensor) -> torch.Tensor:
        """The layer's output (B, L, C) from the attention's result (B, L, C)."""
        for layer in self.to_out:
            attended = layer(attended)
        return attended

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
        keys_values: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Run the processor; arguments as in `LTXAttnProcessor`. Another processor computes keys and values itself."""
        inputs = (hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        if keys_values is None or not self.is_plain:
            return self.processor(self, *inputs)
        return self.processor(self, *inputs, keys_values)

    @property
    def is_plain(self) -> bool:
        """Whether it is computed as written here, by no other processor."""
        return type(self.processor) is LTXAttnProcessor
