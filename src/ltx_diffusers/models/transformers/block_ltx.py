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
        perturbed: tuple[str, int] | None = None,
    ) -> torch.Tensor:
        """Run the block.

        Args:
            hidden_states: Tokens (B, L, C).
            encoder_hidden_states: Projected text features (B, S, C).
            temb: Six vectors of each sample (B, 1, 6 C) or of each token (B, L, 6 C).
            image_rotary_emb: (cos, sin), each (B, L, C).
            encoder_attention_mask: Additive bias (B, 1, S).
            perturbed: Mode of `Perturbation` and the number of rows, the last of the batch, that it acts on.

        Returns:
            Tokens (B, L, C).
        """
        if perturbed is not None and perturbed[0] == "transformer-block":
            return self._bypassed(
                perturbed[1],
                hidden_states,
                encoder_hidden_states,
                temb,
                image_rotary_emb,
                encoder_attention_mask,
            )
        modulation = self.scale_shift_table.to(temb.device) + temb.unflatten(-1, (6, -1))
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = modulation.unbind(dim=2)

        normed = modulate(self.norm1(hidden_states), shift_attn, scale_attn)
        if perturbed is None:
            attended = self.attn1(normed, image_rotary_emb=image_rotary_emb)
        else:
            attended = self._perturbed_attention(*perturbed, normed, image_rotary_emb)
        hidden_states = torch.addcmul(hidden_states, attended, gate_attn)

        hidden_states = hidden_states + self.attn2(
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=encoder_attention_mask,
        )

        normed = modulate(self.norm2(hidden_states), shift_ff, scale_ff)
        return torch.addcmul(hidden_states, self.ff(normed), gate_ff)

    def _perturbed_attention(
        self, mode: str, rows: int, normed: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None
    ) -> torch.Tensor:
        """Self-attention (B, L, C), for the last rows without attending: only the others cost the square of L."""
        others, last = normed[:-rows], normed[-rows:]
        result = last if mode == "attention-skip" else self.attn1.project(last)[2]
        attended = self.attn1.project_out(result)
        if others.shape[0] == 0:
            return attended
        rotary = None if rotary is None else tuple(_first_rows(x, rows) for x in rotary)
        return torch.cat([self.attn1(others, image_rotary_emb=rotary), attended])

    def _bypassed(
        self,
        rows: int,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The block for all rows but the last ones, which stay as they are."""
        if hidden_states.shape[0] == rows:
            return hidden_states
        others = self(
            hidden_states[:-rows],
            encoder_hidden_states[:-rows],
            temb[:-rows],
            None if rotary is None else tuple(_first_rows(x, rows) for x in rotary),
            None if mask is None else mask[:-rows],
        )
        return torch.cat([others, hidden_states[-rows:]])


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x * (1 + scale) + shift, with vectors per sample (B, 1, C) or per token (B, L, C)."""
    return torch.addcmul(shift, x, 1 + scale)


def _first_rows(x: torch.Tensor, rows: int) -> torch.Tensor:
    """`x` without its last rows; one row stands for all."""
    return x if x.shape[0] == 1 else x[:-rows]
