"""Passes with perturbed self-attention, for spatio-temporal guidance (STG, arXiv 2411.18664)."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError, UnknownNameError

MODES = ("attention-values", "attention-skip", "transformer-block")
"""What happens in a perturbed block: self-attention gives its values, gives its input, or the block does nothing."""


@dataclass(frozen=True)
class Perturbation:
    """Blocks that are perturbed, and how.

    "attention-values": every token attends to itself only, so that the attention's result is its values.
    "attention-skip": the result is the attention's input (normalised and modulated).
    Both then go through the output projection. "transformer-block": the block is left out.
    The official code's fourth mode, residual, does nothing in any released model and isn't offered.

    Attributes:
        blocks: Indices of the perturbed blocks.
        mode: One of `MODES`.

    Raises:
        InputError: If there is no block, or an index is negative.
        UnknownNameError: If there is no such mode.
    """

    blocks: tuple[int, ...]
    mode: str = "attention-values"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UnknownNameError(
                "unknown mode of perturbation", got=repr(self.mode), expected=f"one of {MODES}"
            )
        if not self.blocks or any(not isinstance(index, int) or index < 0 for index in self.blocks):
            raise InputError("a perturbation needs indices of blocks", got=self.blocks)

    def check_depth(self, num_layers: int) -> None:
        """Check that the model has these blocks.

        Raises:
            InputError: If an index is too high.
        """
        if max(self.blocks) >= num_layers:
            raise InputError(
                "the model has no such transformer block to perturb",
                got=max(self.blocks),
                expected=f"0 to {num_layers - 1}",
            )
