"""What the transformer computes alike at every step of a denoising loop, kept from one step to the next."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

_LARGEST = 8
"""Results of one kind that are kept: some guidance goes through several texts at each step."""


class _Entry(NamedTuple):
    """A result, and what it was made of; holding the sources keeps their identity from being given away."""

    sources: tuple[Any, ...]
    state: Hashable
    value: Any


class StepCache:
    """Results by what they were made of; owned by one loop, which passes it to each call of the model.

    A source is known by its identity, and a tensor also by how often it was written to: for the same result a loop
    must give the same object, and a changed tensor gives a new result. Nothing is compared by value, so that
    nothing waits for the device.
    """

    def __init__(self) -> None:
        self._entries: dict[str, list[_Entry]] = {}

    def get(
        self, kind: str, sources: tuple[Any, ...], make: Callable[[], Any], state: Hashable = None
    ) -> Any:
        """What `make` gave for these sources.

        Args:
            kind: What is made.
            sources: What it is made of, tensors and others.
            make: Makes it; called if it isn't known.
            state: What else it depends on, compared by value. Only the result of the latest state is kept.
        """
        state = (num_writes(sources), state)
        entries = self._entries.setdefault(kind, [])
        for index, entry in enumerate(entries):
            if len(entry.sources) == len(sources) and all(map(operator.is_, entry.sources, sources)):
                if entry.state == state:
                    return entry.value
                del entries[index]  # out of date, and as large as the one that takes its place
                break
        value = make()
        entries.append(_Entry(sources, state, value))
        del entries[:-_LARGEST]
        return value

    def forget(self) -> None:
        """Forget everything: needed when weights were changed in a way that PyTorch doesn't count (`tensor.data`)."""
        self._entries.clear()


def weights_state(layers: Iterable[nn.Module]) -> Hashable:
    """What tells that layers give the same for the same input: their parameters and adapters, not by value.

    Sees new parameters, writes to them (by optimizers, say), and adapters of PEFT that come, go or get another
    weight. It doesn't see writes to `parameter.data`, nor to weights that sequential offloading has away: these have
    a new place holder after each use.
    """
    state: list[Hashable] = []
    for layer in layers:
        for module in layer.modules():
            state.append(id(module))
            state += [
                "away" if weight is not None and weight.is_meta else (id(weight), num_writes((weight,)))
                for weight in module._parameters.values()
            ]
            if hasattr(module, "active_adapters") and hasattr(module, "scaling"):
                scaling = tuple(sorted(module.scaling.items()))
                state += [
                    tuple(module.active_adapters),
                    scaling,
                    module.disable_adapters,
                    tuple(module.merged_adapters),
                ]
    return tuple(state)


def num_writes(sources: Iterable[Any]) -> Hashable:
    """How often each tensor among the sources was written to; tensors made for inference only don't count that."""
    return tuple(
        source._version if isinstance(source, torch.Tensor) and not source.is_inference() else None
        for source in sources
    )


def offloading_groups(module: nn.Module) -> list[Any]:
    """The groups of Diffusers' group offloading by which a module or parts of it are offloaded."""
    registries = (getattr(part, "_diffusers_hook", None) for part in module.modules())
    hooks = (registry.get_hook("group_offloading") for registry in registries if registry is not None)
    return [hook.group for hook in hooks if hook is not None]
