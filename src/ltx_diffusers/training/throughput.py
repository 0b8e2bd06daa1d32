"""How fast a run is: samples and tokens per second, and the share of the machine's peak that the model's work is."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Work:
    """What a step does, over all processes.

    Attributes:
        samples: Samples of the batch.
        tokens: Tokens of the transformer, or 0.
        flops: Operations of the model, forward and backward, without what is computed again; 0 if not known.
    """

    samples: int
    tokens: int = 0
    flops: float = 0.0


class Throughput:
    """Gathers steps and their seconds between two log lines.

    Args:
        peak: The machine's peak in operations per second, over all processes; None leaves utilisation out.
    """

    def __init__(self, peak: float | None = None) -> None:
        self.peak = peak
        self._forget()

    def add(self, seconds: float, work: Work | None = None) -> None:
        """Count a step."""
        self._steps += 1
        self._seconds += seconds
        if work is not None:
            self._samples += work.samples
            self._tokens += work.tokens
            self._flops += work.flops

    def figures(self) -> dict[str, float]:
        """Means since the last call: seconds per step, and per second what the steps' work told."""
        if not self._steps:
            return {}
        result = {"seconds_per_step": self._seconds / self._steps}
        if self._samples:
            result["samples_per_second"] = self._samples / self._seconds
        if self._tokens:
            result["tokens_per_second"] = self._tokens / self._seconds
        if self._flops and self.peak:
            result["model_flops_utilisation"] = self._flops / self._seconds / self.peak
        self._forget()
        return result

    def _forget(self) -> None:
        self._steps, self._seconds, self._samples, self._tokens, self._flops = 0, 0.0, 0, 0, 0.0


def measure_peak(device: torch.device, dtype: torch.dtype, *, size: int | None = None) -> float:
    """Operations per second of a device in a large matrix product, the best of five.

    A share of this is higher than one of the peak that a data sheet promises.

    Args:
        device: Where.
        dtype: Type of the numbers.
        size: Rows and columns; by default 8192, or 1024 on a CPU.
    """
    size = size or (1024 if device.type == "cpu" else 8192)
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(6):  # the first warms up
        started = time.perf_counter()
        matrix @ matrix
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def transformer_flops(
    *,
    batch: int,
    tokens: int,
    text_tokens: int,
    layers: int,
    width: int,
    cross_width: int,
    in_channels: int,
    out_channels: int,
    caption_channels: int,
    expansion: int = 4,
) -> float:
    """Operations of a training step of `LTXTransformer3DModel`: the forward pass and twice that for the backward one.

    Matrix products only, two operations for each multiplication with an addition. Time embeddings are left out.

    Args:
        batch: Samples.
        tokens: Video tokens of each.
        text_tokens: Text tokens of each.
        layers: Blocks.
        width: Channels of the video tokens.
        cross_width: Channels of the text in the blocks.
        in_channels: Latent channels in.
        out_channels: Latent channels out.
        caption_channels: Channels of the text encoder.
        expansion: Hidden channels of the feed-forward layers, in widths.
    """
    own = tokens * 4 * width * width + 2 * tokens * tokens * width
    cross = (
        tokens * 2 * width * width + text_tokens * 2 * cross_width * width + 2 * tokens * text_tokens * width
    )
    forward = tokens * 2 * expansion * width * width
    ends = tokens * (in_channels + out_channels) * width
    text = text_tokens * (caption_channels + width) * width
    return 3.0 * 2.0 * batch * (layers * (own + cross + forward) + ends + text)
