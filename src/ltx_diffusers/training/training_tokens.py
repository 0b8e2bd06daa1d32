"""Tokens of training samples as the transformer gets them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class TrainingTokens:
    """Tokens of samples as the transformer gets them in training, with what it is to predict.

    Attributes:
        tokens: Noised latents (B, L, C).
        levels: Noise level of each token (B, L).
        coords: Seconds and pixels (B, 3, L).
        target: The velocity (B, L, C).
        counts: Which tokens count in the loss (B, L), bool: those that aren't given.
        rows: Places of the samples in their batch.
    """

    tokens: Tensor
    levels: Tensor
    coords: Tensor
    target: Tensor
    counts: Tensor
    rows: tuple[int, ...]

    def at(self, positions: Tensor) -> TrainingTokens:
        """The tokens at some positions (B, K) only, each as it was."""
        channels = positions[..., None].expand(-1, -1, self.tokens.shape[2])
        return replace(
            self,
            tokens=self.tokens.gather(1, channels),
            levels=self.levels.gather(1, positions),
            coords=self.coords.gather(2, positions[:, None].expand(-1, 3, -1)),
            target=self.target.gather(1, channels),
            counts=self.counts.gather(1, positions),
        )

    def of_samples(self, samples: Tensor) -> TrainingTokens:
        """Some of the samples (b,) only."""
        names = ("tokens", "levels", "coords", "target", "counts")
        some = {name: getattr(self, name)[samples] for name in names}
        return TrainingTokens(**some, rows=tuple(self.rows[index] for index in samples.tolist()))

    def with_noise(self, tokens: Tensor, levels: Tensor) -> TrainingTokens:
        """The same samples at other noise levels (B, L), with other tokens (B, L, C)."""
        return replace(self, tokens=tokens, levels=levels)
