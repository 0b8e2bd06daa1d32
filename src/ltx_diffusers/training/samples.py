"""One training sample of the transformer: a clip as latents, with its text and what it is to be made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..geometry import VideoSize


@dataclass(frozen=True, eq=False)
class GivenLatents:
    """Frames that a sample is given, encoded by themselves.

    Attributes:
        frame: Frame of the clip at which they begin.
        mean, deviation: Their posterior, as that of a sample.
    """

    frame: int
    mean: torch.Tensor
    deviation: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentSample:
    """A clip as the transformer is trained on it. All tensors lie on the CPU.

    Attributes:
        mean: Posterior mean (C, F', H', W'), float32, normalised by the VAE's statistics.
        deviation: Posterior standard deviation (C, F', H', W') or (1, F', H', W') if all channels share it, float32,
            divided by the same standard deviations; latents are drawn as `mean + deviation * noise`.
        frame_rate: Of the clip, in frames per second; 1 for a picture.
        caption: One wording of what it shows; "" if nobody wrote one.
        name: What a user finds it by.
        text_embeds: The text encoder's output for the caption (T, D), float32; None if texts aren't encoded. T may
            differ from sample to sample.
        text_mask: Which of these tokens belong to the caption (T,), bool; None as `text_embeds`.
        references: Clips that this one is made from (in-context references): posterior means (C, f, h, w), normalised.
        reference_scale: How many times fewer pixels a side the references have than the clip; 1 for the same size.
        mask: Which part is made anew (F', H', W'), float32 in [0, 1], 1 = made anew and 0 = given; None if everything
            is, or if the training draws what is given.
        conditions: What is given of its own, in order of the frames; () for nothing, None if the training draws that.
        weight: How much the sample counts in the loss.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    frame_rate: float
    caption: str = ""
    name: str = ""
    text_embeds: torch.Tensor | None = None
    text_mask: torch.Tensor | None = None
    references: tuple[torch.Tensor, ...] = ()
    reference_scale: int = 1
    mask: torch.Tensor | None = None
    conditions: tuple[GivenLatents, ...] | None = None
    weight: float = 1.0

    @property
    def latent_size(self) -> VideoSize:
        """Frames, height and width in latents."""
        return VideoSize(*self.mean.shape[1:])

    @property
    def num_tokens(self) -> int:
        """Tokens of the clip alone, without those of its references, at one token per latent position."""
        frames, height, width = self.latent_size
        return frames * height * width
