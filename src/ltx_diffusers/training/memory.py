"""What a run trades for memory or speed in its models: activations computed again, compiled blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..errors import InputError


def apply_switches(module: torch.nn.Module, *, gradient_checkpointing: bool, backend: str | None) -> None:
    """Set a training module's models up.

    Args:
        module: What is trained, with models of Diffusers and Transformers inside.
        gradient_checkpointing: Compute activations again in the backward pass.
        backend: Compile the models' repeated blocks with this backend of torch.compile; None doesn't. Frozen
            models are compiled, too.

    Raises:
        InputError: If none of the models can do what is asked, or there is no such backend.
    """
    if gradient_checkpointing:
        models = [model for model in _checkpointable(module) if _is_trained(model)]
        if not models:
            raise InputError("config key 'gradient_checkpointing': no model of this run supports it")
        for model in models:
            _checkpoint(model)
    if backend is not None:
        _check_backend(backend)
        models = [model for model in module.modules() if getattr(model, "_repeated_blocks", None)]
        if not models:
            raise InputError("config key 'compile': no model of this run has repeated blocks to compile")
        for model in models:
            model.compile_repeated_blocks(backend=backend)


def _checkpointable(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    for model in module.modules():
        if getattr(model, "_supports_gradient_checkpointing", False) or getattr(
            model, "supports_gradient_checkpointing", False
        ):
            yield model


def _is_trained(model: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())


def _checkpoint(model: torch.nn.Module) -> None:
    if hasattr(model, "enable_gradient_checkpointing"):  # Diffusers
        model.enable_gradient_checkpointing()
    else:  # Transformers; without reentrance, so that frozen inputs do no harm
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _check_backend(backend: str) -> None:
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise InputError("config key 'compile': no such backend", got=backend, expected=", ".join(known))
