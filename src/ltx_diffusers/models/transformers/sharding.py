"""Context parallelism: how the sequences of the transformer are shared out over processes.

Diffusers' plan names modules and splits what goes in or comes out of them. It can only tell tensors apart by
their number of dimensions, which isn't enough here: per-token timesteps (B, L) must be split, per-sample
ones, (B,) or (B, 1), must not, and an optional input that isn't given would be an error. So inputs that are
split only sometimes pass through a `SplitPoint`, which the model calls exactly when they are to be split.
"""

from __future__ import annotations

from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from torch import nn


class SplitPoint(nn.Identity):
    """Hands on its input; under context parallelism, this process's share of it."""


CONTEXT_PARALLEL_PLAN = {
    "": {
        "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
        "encoder_hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
    },
    "rope": {
        0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True),
        1: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True),
    },
    "token_timesteps": {0: ContextParallelInput(split_dim=1, expected_dims=2, split_output=True)},
    "text_mask": {0: ContextParallelInput(split_dim=-1, split_output=True)},
    "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
}
"""Tokens, text and all that goes with them are split along their sequence; the output is gathered."""
