"""Layers with the parameters of PyTorch's and Diffusers', computed in fewer passes where no gradient is needed.

Adapters, quantizers and hooks treat them as what they are derived from.
"""

from __future__ import annotations

import torch
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from torch import nn

from ...functional.cpu_linear import linear
from ...functional.rms_norm import rms_norm, scaled_to_unit
from ...functional.rope import apply_rotary, turn_

Rotary = tuple[torch.Tensor, torch.Tensor] | torch.Tensor
"""(cos, sin), each (B, L, C), from `rotary_embedding`; or (B, L, C / 2) from `rotary_turns`, without gradients."""


class Linear(nn.Linear):
    """`nn.Linear` by the fastest operator."""

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        """(..., C) to (..., C'), with GELU by tanh on the result if asked for."""
        return linear(x, self.weight, self.bias, gelu=gelu)


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` in few passes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) to the same."""
        return rms_norm(x, self.weight, self.eps)


class QueryKeyNorm(nn.RMSNorm):
    """RMSNorm over all heads, then RoPE if there is one."""

    def forward(self, x: torch.Tensor, rotary: Rotary | None = None) -> torch.Tensor:
        """Queries or keys (B, L, C), normalised and turned."""
        if not isinstance(rotary, torch.Tensor):
            normed = rms_norm(x, self.weight, self.eps)
            return normed if rotary is None else apply_rotary(normed, *rotary)
        if x.device.type == "cpu":
            normed = scaled_to_unit(x, self.weight, self.eps)
        else:
            normed = super().forward(x).to(torch.promote_types(x.dtype, torch.float32))
        return turn_(normed, rotary).to(x.dtype)


class LTXFeedForward(FeedForward):
    """Diffusers' feed-forward, with the activation as part of the first product where that can be.

    Args:
        dim: Width C of the tokens.
        activation_fn: Activation, in Diffusers' names.
    """

    def __init__(self, dim: int, activation_fn: str = "gelu-approximate") -> None:
        super().__init__(dim, activation_fn=activation_fn)
        for module in self.modules():
            if type(module) is nn.Linear:
                module.__class__ = Linear  # the same parameters, another `forward`

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Tokens (B, L, C) to the same."""
        first = self.net[0]
        # Adapters take the place of the layer, and the activation comes after what they add.
        if isinstance(first, GELU) and first.approximate == "tanh" and type(first.proj) is Linear:
            return self.net[2](self.net[1](first.proj(hidden_states, gelu=True)))
        return super().forward(hidden_states)
