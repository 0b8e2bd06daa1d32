"""Adaptive weights: a loss is scaled so that it pulls as strongly on one layer as the reconstruction loss does."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from ..errors import InputError

_EPS = 1e-4


def gradient_ratio(
    reference: torch.Tensor, loss: torch.Tensor, layer: torch.Tensor, cap: float
) -> torch.Tensor:
    """|d reference / d layer| / (|d loss / d layer| + 1e-4), at most `cap`, detached (arXiv 2012.09841, section 3.1).

    Gradients are averaged over processes first, so that all of them get the ratio of the whole batch.

    Args:
        reference: The reconstruction loss, ().
        loss: The loss to scale, ().
        layer: Weight of the layer whose gradients are compared.
        cap: Largest ratio.

    Raises:
        InputError: If one of the losses doesn't depend on the layer.
    """
    strength, own = (_gradient_norm(value, layer) for value in (reference, loss))
    return (strength / (own + _EPS)).clamp(max=cap).detach()


def last_layer(vae: nn.Module, part: str) -> torch.Tensor:
    """Weight of the last convolution of a VAE's "encoder" or "decoder".

    Raises:
        InputError: If the VAE's part has no `conv_out`, or it isn't trained.
    """
    output = getattr(getattr(vae, part, None), "conv_out", None)
    weight = next(
        (value for name, value in output.named_parameters() if name.endswith("weight"))
        if output
        else iter(()),
        None,
    )
    if weight is None:
        raise InputError(f"{type(vae).__name__} has no {part}.conv_out to balance losses by")
    if not weight.requires_grad:
        raise InputError(
            f"a loss can't be balanced by the {part}, which isn't trained",
            fix="leave the objective out, or set its balance to {kind: constant}",
        )
    return weight


def _gradient_norm(loss: torch.Tensor, layer: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss, layer, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise InputError(
            "a loss can't be balanced by a layer that it doesn't depend on",
            got="no gradient at the last convolution of the encoder or decoder",
            fix="choose another layer, or set the objective's balance to {kind: constant}",
        )
    gradient = (
        gradient.float().contiguous()
    )  # of a convolution it may lie channels last, which gloo can't sum up
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
    return gradient.norm()
