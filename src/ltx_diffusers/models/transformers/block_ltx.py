"""One block of the LTX-Video transformer (paper section 2.2)."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from .attention_ltx import LTXAttention
from .layers import LTXFeedForward, RMSNorm, Rotary


class TextMemory:
    """Keys and values of a text in one block, computed when the block first meets it.

    In the block, because offloading and sharding may have its weights in place only while it runs.
    """

    def __init__(self) -> None:
        self._known: tuple[torch.Tensor, torch.Tensor] | None = None

    def keys_values(
        self, attention: LTXAttention, text: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Keys and values, each (B, S, C), of projected text (B, S, C); None if `attention` is done otherwise."""
        if not attention.is_plain:
            return None
        if self._known is None:
            self._known = attention.keys_values(text)
        return self._known

    def arguments(self, block: LTXTransformerBlock, text: torch.Tensor) -> dict[str, Any]:
        """Arguments of a block that make it use what is kept for projected text (B, S, C).

        A compiled block is given keys and values themselves: its graph shouldn't depend on whether they are known yet.
        Where hooks act on it, its weights may not be in place.
        """
        if block._compiled_call_impl is None:
            return {"text_memory": self}
        if hasattr(block, "_hf_hook") or hasattr(block, "_diffusers_hook"):
            return {}
        return {"keys_values": self.keys_values(block.attn2, text)}


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
        self.norm1 = RMSNorm(dim, eps=eps, elementwise_affine=elementwise_affine)
        self.attn1 = LTXAttention(**attention)
        self.norm2 = RMSNorm(dim, eps=eps, elementwise_affine=elementwise_affine)
        self.attn2 = LTXAttention(**attention, cross_attention_dim=cross_attention_dim)
        self.ff = LTXFeedForward(dim, activation_fn=activation_fn)
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: Rotary | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        perturbed: tuple[str, int] | None = None,
        text_memory: TextMemory | None = None,
        runs: tuple[int, ...] | None = None,
        copies: int = 1,
        keys_values: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Run the block.

        Args:
            hidden_states: Tokens (B, L, C).
            encoder_hidden_states: Projected text features (B, S, C).
            temb: Six vectors of each sample (B, 1, 6 C), of each token (B, L, 6 C), or of each run (B, K, 6 C).
            image_rotary_emb: RoPE; one row stands for all.
            encoder_attention_mask: Additive bias (B, 1, S).
            perturbed: Mode of `Perturbation` and the number of rows, the last of the batch, that it acts on.
            text_memory: Holds keys and values of the text from one call to the next; without gradients.
            runs: Lengths of the K runs of tokens that share their vectors; without gradients.
            copies: How many texts each row goes on with: the text then has `copies` times B rows, and so have the
                tokens that come out. Until they meet the text the rows are computed once.
            keys_values: Of the text (`LTXAttention.keys_values`), if they are known; without gradients.

        Returns:
            Tokens (B, L, C).
        """
        if text_memory is not None:
            keys_values = text_memory.keys_values(self.attn2, encoder_hidden_states)
        text = (encoder_hidden_states, encoder_attention_mask, keys_values)
        if perturbed is None or perturbed[0] != "transformer-block":
            return self._run(hidden_states, text, temb, image_rotary_emb, perturbed, runs, copies)
        rows = perturbed[1]
        if hidden_states.shape[0] == rows:
            return hidden_states
        others = (hidden_states, text, temb, image_rotary_emb)
        return torch.cat([self._run(*_without_last(others, rows), None, runs, 1), hidden_states[-rows:]])

    def _run(
        self,
        hidden_states: torch.Tensor,
        text: tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, torch.Tensor] | None],
        temb: torch.Tensor,
        rotary: Rotary | None,
        perturbed: tuple[str, int] | None,
        runs: tuple[int, ...] | None,
        copies: int,
    ) -> torch.Tensor:
        """The block for rows none of which is left out; `text` is features, bias, and keys with values."""
        modulation = self.scale_shift_table.to(temb.device) + temb.unflatten(-1, (6, -1))
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = modulation.unbind(dim=2)

        normed = modulate(self.norm1(hidden_states), shift_attn, scale_attn, runs)
        if perturbed is None:
            attended = self.attn1(normed, image_rotary_emb=rotary)
        else:
            attended = self._perturbed_attention(*perturbed, normed, rotary)
        hidden_states = add_product(hidden_states, attended, gate_attn, runs)
        if copies > 1:
            hidden_states, shift_ff, scale_ff, gate_ff = (
                x.repeat(copies, 1, 1) for x in (hidden_states, shift_ff, scale_ff, gate_ff)
            )

        features, bias, keys_values = text
        known = {} if keys_values is None else {"keys_values": keys_values}
        hidden_states = hidden_states + self.attn2(
            hidden_states, encoder_hidden_states=features, attention_mask=bias, **known
        )

        normed = modulate(self.norm2(hidden_states), shift_ff, scale_ff, runs)
        return add_product(hidden_states, self.ff(normed), gate_ff, runs)

    def _perturbed_attention(
        self, mode: str, rows: int, normed: torch.Tensor, rotary: Rotary | None
    ) -> torch.Tensor:
        """Self-attention (B, L, C), for the last rows without attending: only the others cost the square of L."""
        others, last = normed[:-rows], normed[-rows:]
        result = last if mode == "attention-skip" else self.attn1.project(last)[2]
        attended = self.attn1.project_out(result)
        if others.shape[0] == 0:
            return attended
        return torch.cat([self.attn1(others, image_rotary_emb=_without_last(rotary, rows)), attended])


def modulate(
    x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, runs: tuple[int, ...] | None = None
) -> torch.Tensor:
    """x * (1 + scale) + shift (B, L, C).

    Args:
        x: (B, L, C).
        shift: Vectors per sample (B, 1, C), per token (B, L, C), or per run (B, K, C).
        scale: The same.
        runs: Lengths of the K runs of tokens that share a vector. Without gradients.
    """
    if runs is None:
        return torch.addcmul(shift, x, 1 + scale)
    result, scale = torch.empty_like(x), 1 + scale
    for run, part in enumerate(_slices(runs)):
        vector = slice(run, run + 1)
        torch.addcmul(shift[:, vector], x[:, part], scale[:, vector], out=result[:, part])
    return result


def add_product(
    x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor, runs: tuple[int, ...] | None = None
) -> torch.Tensor:
    """x + y * gate (B, L, C), with the gate as in `modulate`."""
    if runs is None:
        return torch.addcmul(x, y, gate)
    result = torch.empty_like(x)
    for run, part in enumerate(_slices(runs)):
        torch.addcmul(x[:, part], y[:, part], gate[:, run : run + 1], out=result[:, part])
    return result


def _slices(runs: tuple[int, ...]) -> list[slice]:
    """Where each run of tokens lies."""
    ends = [*itertools.accumulate(runs)]
    return [slice(end - length, end) for end, length in zip(ends, runs, strict=True)]


def _without_last(x: Any, rows: int) -> Any:
    """A tensor, or tensors in tuples, without their last rows; one row stands for all."""
    if x is None or (isinstance(x, torch.Tensor) and x.shape[0] == 1):
        return x
    return tuple(_without_last(part, rows) for part in x) if isinstance(x, tuple) else x[:-rows]
