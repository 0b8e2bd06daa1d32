"""Context parallelism: how the sequences of the transformer are shared out over processes.

Diffusers' plan names modules and splits what goes in or comes out of them. It tells tensors apart by their number of
dimensions only, and can't leave out an argument that isn't given, which isn't enough here: per-token timesteps
(B, L) must be split, per-sample ones, (B,) or (B, 1), must not, and the text mask is optional. Nor can a plan
on the model itself return an output object. So the model passes exactly what is to be split through one `Shard`.
"""

from __future__ import annotations

from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from torch import nn


class Shard(nn.Identity):
    """Hands on its input; under context parallelism, this process's share of it along dimension 1."""


CONTEXT_PARALLEL_PLAN = {
    "shard": {0: ContextParallelInput(split_dim=1, split_output=True)},
    "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
}
"""What passes through the model's `shard` is split, the output is gathered."""
