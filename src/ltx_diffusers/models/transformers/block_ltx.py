"""One block of the LTX-Video transformer (paper section 2.2)."""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from torch import nn

from .attention_ltx import LTXAttention


class LTXTransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and feed-forward.

    The timestep modulates the first and the last by adaLN-single (PixArt-alpha, section 2.3): the model
    computes six vectors from the timestep once, and each block adds its own table to them. Cross-attention is
    neither normalised nor modulated.

    Args:
        dim: Width C of the tokens.
        num_attention_heads: Heads of both attentions.
        attention_head_dim: Width of a head.
        cross_attention_dim: Width of the projected text features.
        qk_norm: Norm of queries and keys.
        activation_fn: Activation of the feed-forward, in Diffusers' names.
        attention_bias: Whether query, key and value projections have a bias.
        attention_out_bias: Whether output projections have one.
        eps: Epsilon of the norms before self-attention and feed-forward.
        elementwise_affine: Whether these norms have a weight.
    """

    def __init__(
        self,
        dim: int,
        num_attention_heads: int,
        attention_head_dim: int,
        cross_attention_dim: int,
        qk_norm: str = "rms_norm_across_heads",
        activation_fn: str = "gelu-approximate",
        attention_bias: bool = True,
        attention_out_bias: bool = True,
        eps: float = 1e-6,
        elementwise_affine: bool = False,
    ) -> None:
        super().__init__()
        attention = {
            "query_dim": dim,
            "heads": num_attention_heads,
            "dim_head": attention_head_dim,
            "bias": attention_bias,
            "out_bias": attention_out_bias,
            "qk_norm": qk_norm,
        }
        self.norm1 = nn.RMSNorm(dim, eps=eps, elementwise_affine=elementwise_affine)
        self.attn1 = LTXAttention(**attention)
        self.norm2 = nn.RMSNorm(dim, eps=eps, elementwise_affine=elementwise_affine)
        self.attn2 = LTXAttention(**attention, cross_attention_dim=cross_attention_dim)
        self.ff = FeedForward(dim, activation_fn=activation_fn)
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the block.

        Args:
            hidden_states: Tokens (B, L, C).
            encoder_hidden_states: Projected text features (B, S, C).
            temb: Six vectors of each sample (B, 1, 6 C) or of each token (B, L, 6 C).
            image_rotary_emb: (cos, sin), each (B, L, C).
            encoder_attention_mask: Additive bias (B, 1, S).

        Returns:
            Tokens (B, L, C).
        """
        modulation = self.scale_shift_table.to(temb.device) + temb.unflatten(-1, (6, -1))
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = modulation.unbind(dim=2)

        normed = modulate(self.norm1(hidden_states), shift_attn, scale_attn)
        attended = self.attn1(normed, image_rotary_emb=image_rotary_emb)
        hidden_states = torch.addcmul(hidden_states, attended, gate_attn)

        hidden_states = hidden_states + self.attn2(
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=encoder_attention_mask,
        )

        normed = modulate(self.norm2(hidden_states), shift_ff, scale_ff)
        return torch.addcmul(hidden_states, self.ff(normed), gate_ff)


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x * (1 + scale) + shift, with vectors per sample (B, 1, C) or per token (B, L, C)."""
    return torch.addcmul(shift, x, 1 + scale)
