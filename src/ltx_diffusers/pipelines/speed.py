"""How fast a pipeline is to be, in one word: what is switched on for it, on this device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..denoising.forecast import Forecast, Forecasting
from ..denoising.guidance import Guidance
from ..denoising.velocity import GuidedVelocity, TextFeatures
from ..errors import InputError, UnknownNameError
from ..models.transformers.step_cache import num_writes, offloading_groups

EXACT = "exact"

SPEEDS: dict[str, Forecasting | None] = {
    EXACT: None,
    "fast": Forecasting(tolerance=0.05, most_in_a_row=2),
    "fastest": Forecasting(tolerance=0.2, most_in_a_row=3),
}
"""When steps are foretold, by the name of the speed. What each costs was measured: docs/how-to/speed.md."""

_FLOAT8_SINCE = (8, 9)
_INT8_SINCE = (8, 0)
"""Compute capabilities of NVIDIA GPUs whose products of matrices know these types."""

_COMPILED, _IN_8_BITS = "_compiled_for_speed", "_in_8_bits_for_speed"
"""Attributes of a transformer that note what was done to it: pipelines may share it."""


def check_speed(speed: str) -> None:
    """Check the name of a speed.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    if speed not in SPEEDS:
        raise UnknownNameError("unknown speed", got=repr(speed), expected=f"one of {', '.join(SPEEDS)}")


class ChoosesSpeed:
    """Mixin of a pipeline: `set_speed`, and the velocities of its runs."""

    _speed = EXACT
    _foretells = True
    _forecast: Forecast | None = None

    @property
    def speed(self) -> str:
        """The speed that was set."""
        return self._speed

    @property
    def num_foretold_steps(self) -> int:
        """Runs of the model that the last call did without."""
        return 0 if self._forecast is None else self._forecast.foretold

    def set_speed(self, speed: str) -> list[str]:
        """Choose how fast the next calls are.

        "exact": nothing that changes the result. "fast": on a GPU the blocks are compiled, and steps are foretold
        from earlier ones where little is lost (`denoising.forecast`). "fastest": more of them, and on a GPU
        the blocks' products are of 8 bits (torchao), for good: for another speed load the model again.

        Args:
            speed: One of `SPEEDS`.

        Returns:
            What is done now, in words, a line each.

        Raises:
            UnknownNameError: If there is no such speed.
            InputError: If the weights were brought to 8 bits before, torchao is needed and missing, or offloading keeps
                copies of weights that are to be changed.
        """
        check_speed(speed)
        transformer = self.transformer
        if getattr(transformer, _IN_8_BITS, False) and speed != "fastest":
            raise InputError(
                "the weights were brought to 8 bits for the speed 'fastest'",
                got=repr(speed),
                fix="load the model again",
            )
        notes = [self._note_on_steps(speed)]
        device = self._execution_device
        on_gpu = device.type == "cuda"
        if speed == "fastest":
            notes.append(self._quantize(device))
        compiled = any(block._compiled_call_impl is not None for block in transformer.transformer_blocks)
        if on_gpu and speed != EXACT and not compiled:
            compile_blocks(transformer)
            setattr(transformer, _COMPILED, True)
        elif speed == EXACT and getattr(transformer, _COMPILED, False):  # and not by the caller
            leave_uncompiled(transformer)
            setattr(transformer, _COMPILED, False)
        if speed != EXACT:
            notes.append(
                "blocks are compiled in the first step" if on_gpu else f"nothing is compiled on {device.type}"
            )
        self._speed = speed
        return notes

    def _note_on_steps(self, speed: str) -> str:
        forecasting = SPEEDS[speed]
        if forecasting is None:
            return "every step is computed"
        if not self._foretells:
            return "this pipeline computes every step"
        return f"steps are foretold where the velocity's expected error is below {forecasting.tolerance:.0%}"

    def _quantize(self, device: torch.device) -> str:
        """Bring the blocks' products to 8 bits, once, where that pays."""
        if getattr(self.transformer, _IN_8_BITS, False):
            return "products of 8 bits, as before"
        if any(_is_special(layer) for layer in block_layers(self.transformer).values()):
            return "weights stay as they were quantized"
        config = product_config(device, self.transformer.dtype)
        if config is None:
            return f"weights stay as they are: products of 8 bits don't pay on {device.type}"
        _check_no_copies(self.transformer.transformer_blocks)
        quantize_blocks(self.transformer, config)
        setattr(self.transformer, _IN_8_BITS, True)
        return f"products by {type(config).__name__}"

    def _guided_velocity(
        self, texts: dict[str, TextFeatures], guidance: Guidance, attention_kwargs: dict[str, Any] | None
    ) -> GuidedVelocity:
        """The model as a run calls it."""
        forecasting = SPEEDS[self._speed] if self._foretells else None
        velocity = GuidedVelocity(
            self.transformer, texts, guidance, attention_kwargs, forecasting=forecasting
        )
        self._forecast = velocity.forecast
        return velocity


def call_back(
    callback: Callable[..., dict[str, Any] | None],
    pipeline: Any,
    index: int,
    timestep: Tensor,
    tensors: dict[str, Tensor | None],
) -> tuple[dict[str, Any], bool]:
    """Call the caller's callback at the end of a step.

    Returns:
        What it returned, and whether it is seen to have changed a tensor that it was given: replaced or written to.
    """
    before = dict(tensors)
    writes = [num_writes((tensor,)) for tensor in before.values()]
    returned = callback(pipeline, index, timestep, tensors) or {}
    replaced = any(value is not before.get(name) for name, value in returned.items())
    return returned, replaced or writes != [num_writes((tensor,)) for tensor in before.values()]


def compile_blocks(transformer: nn.Module, **options: Any) -> None:
    """Compile the repeated block, once for all blocks and all sizes of videos.

    Args:
        transformer: Ours or Diffusers'.
        **options: Of `torch.compile`.
    """
    transformer.compile_repeated_blocks(**{"dynamic": True} | options)


def leave_uncompiled(transformer: nn.Module) -> None:
    """Undo `compile_blocks`."""
    for module in transformer.modules():
        if type(module).__name__ in transformer._repeated_blocks:
            module._compiled_call_impl = None


def block_layers(transformer: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers of the blocks that run at each step, by name: not adapters', nor keys and values of the text."""
    return {
        name: layer
        for name, layer in transformer.transformer_blocks.named_modules()
        if isinstance(layer, nn.Linear)
        and "lora_" not in name
        and not name.removesuffix(".base_layer").endswith(("attn2.to_k", "attn2.to_v", "attn2.to_kv"))
    }


def product_config(device: torch.device, dtype: torch.dtype) -> Any:
    """torchao's config of products of 8 bits for a device; None where they don't pay.

    On a CPU int8 products are fast, but torchao's rounding of what goes into them eats that up.

    Raises:
        InputError: If torchao is missing.
    """
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability < _INT8_SINCE:
        return None
    try:
        from torchao import quantization
    except ImportError as error:
        raise InputError("the speed 'fastest' needs torchao on a GPU", fix="pip install torchao") from error
    if capability >= _FLOAT8_SINCE and dtype == torch.bfloat16:
        return quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    return quantization.Int8DynamicActivationInt8WeightConfig()


def quantize_blocks(transformer: nn.Module, config: Any) -> None:
    """Bring weights of the blocks to fewer bits in place.

    Args:
        transformer: Ours or Diffusers'.
        config: Of torchao.
    """
    from torchao.quantization import quantize_

    chosen = set(block_layers(transformer))
    quantize_(transformer.transformer_blocks, config, filter_fn=lambda _, name: name in chosen)


def _is_special(layer: nn.Linear) -> bool:
    """Whether weights are quantized already, or kept in 8 bits by a hook."""
    return type(layer.weight) is not nn.Parameter or layer.weight.dtype.itemsize < 2


def _check_no_copies(blocks: nn.Module) -> None:
    """Refuse weights that offloading puts in place again from copies, for these would stay as they are.

    Sequential offloading has them all on another place, group offloading with a stream in pinned memory, or on the
    disk.

    Raises:
        InputError: If it does.
    """
    groups = offloading_groups(blocks)
    copied = any(group.stream is not None or group.offload_to_disk_path is not None for group in groups)
    if copied or any(weight.is_meta for weight in blocks.parameters()):
        raise InputError(
            "the speed 'fastest' changes weights, and offloading keeps copies of them",
            fix="set the speed before offloading is enabled",
        )
