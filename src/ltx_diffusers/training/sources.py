"""Where a transformer's training gets its samples from: latents by number, in buckets of one size each.

| source | latents | good for |
|---|---|---|
| `EncodedClips` | of a data reader's first clips, encoded at the start of the run and kept | sets that fit in memory |
| `OnTheFly` | of a data reader's clips, encoded when their step comes | endless sets, every condition |
| `latent_store.LatentStore` | written beforehand by `ltx-diffusers precompute` | large models, many processes |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..data.clips import ClipReader
from ..errors import InputError
from ..geometry import CompressionRatios, VideoSize
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from .clip_extras import check_reference_sizes
from .latent_cache import (
    View,
    cached_extras,
    cached_frame_rates,
    cached_posteriors,
    encode_extras,
    encode_posterior,
)
from .samples import LatentSample

ENDLESS = 2**40
"""As many numbers has a source whose clips never end."""


class SampleSource(Protocol):
    """Samples by number. The same number gives the same sample, in every process.

    Attributes:
        buckets: The numbers of the samples of each size; sizes in frames and pixels.
    """

    buckets: dict[VideoSize, Sequence[int]]

    def __getitem__(self, number: int) -> LatentSample:
        """The sample of a number."""

    def describe(self, number: int) -> str:
        """Words that identify a sample, for messages."""

    def caption(self, number: int, rng: np.random.Generator) -> str:
        """A wording of what a sample shows, drawn anew."""


@dataclass(frozen=True)
class Posterior:
    """A normalised posterior of one clip, or of a view of it.

    Attributes:
        mean: (C, F', H', W').
        deviation: (C or 1, F', H', W').
    """

    mean: torch.Tensor
    deviation: torch.Tensor


class SeesPixels(Protocol):
    """A source that can also encode a part of a clip by itself: a keyframe, a clip with a gray box."""

    def clip_number(self, number: int) -> int:
        """The number that a sample's clip has in its reader, by which views know it."""

    def view(self, number: int, view: View) -> Posterior:
        """The posterior of a view of a sample's clip."""


class EncodedClips:
    """The first clips of a data reader, with what belongs to them, in several sizes, encoded once and kept on disk.

    Args:
        vae: Encodes them.
        clips: The reader.
        sizes: Sizes in frames and pixels.
        count: Clips of each size.
        folder: Where the latents are kept.
        views: What else is encoded of the clips of a size.
        frame_rate: Of clips that tell none.
        reference_scale: How many times fewer pixels a side references get than their clips; None leaves them out.

    Raises:
        InputError: If the VAE can't encode references of a size by this scale, or what belongs to a clip
            doesn't fit it.
    """

    def __init__(
        self,
        vae: AutoencoderKLLTX,
        clips: ClipReader,
        sizes: Sequence[VideoSize],
        count: int,
        folder: Path,
        frame_rate: float,
        views: Callable[[VideoSize], Sequence[View]] = lambda size: (),
        reference_scale: int | None = 1,
    ) -> None:
        self.reference_scale = _checked_scale(reference_scale, sizes, vae)
        self.count = count
        self.sizes = list(sizes)
        self.frame_rate = frame_rate
        self.clips = [clips.with_size(*size) for size in sizes]
        self.buckets: dict[VideoSize, Sequence[int]] = {
            size: range(index * count, (index + 1) * count) for index, size in enumerate(self.sizes)
        }
        self._posteriors = [
            cached_posteriors(vae, reader, count, folder, reference_scale=reference_scale)
            for reader in self.clips
        ]
        cached = [(vae, reader, count, folder, reference_scale) for reader in self.clips]
        self._rates = [cached_frame_rates(*of_size) for of_size in cached]
        self._extras = [cached_extras(*of_size) for of_size in cached]
        self._views = [
            {view: cached_posteriors(vae, reader, count, folder, view) for view in views(size)}
            for reader, size in zip(self.clips, self.sizes, strict=True)
        ]

    def __getitem__(self, number: int) -> LatentSample:
        bucket, index = divmod(number, self.count)
        mean, deviation = self._posteriors[bucket]
        return LatentSample(
            mean=mean[index],
            deviation=deviation[index],
            frame_rate=self._rates[bucket][index] or self.frame_rate,
            name=self.describe(number),
            references=self._extras[bucket][index].references,
            reference_scale=self.reference_scale,
            mask=self._extras[bucket][index].mask,
            conditions=self._extras[bucket][index].conditions,
        )

    def describe(self, number: int) -> str:
        """Words that identify a sample."""
        bucket, index = divmod(number, self.count)
        return self.clips[bucket].name(index)

    def caption(self, number: int, rng: np.random.Generator) -> str:
        """A wording of a clip."""
        bucket, index = divmod(number, self.count)
        return self.clips[bucket].caption(index, rng)

    def clip_number(self, number: int) -> int:
        """The number that a sample's clip has in its reader."""
        return number % self.count

    def view(self, number: int, view: View) -> Posterior:
        """The posterior of a view; one of those that were encoded."""
        bucket, index = divmod(number, self.count)
        mean, deviation = self._views[bucket][view]
        return Posterior(mean[index], deviation[index])


class OnTheFly:
    """The clips of a data reader, encoded when they are asked for. The reader decides how often a file comes back.

    Args:
        vae: Encodes them.
        clips: The reader.
        sizes: Sizes in frames and pixels.
        frame_rate: Of clips that tell none.
        reference_scale: As `EncodedClips` has it.

    Raises:
        InputError: If the VAE can't encode references of a size by this scale.
    """

    def __init__(
        self,
        vae: AutoencoderKLLTX,
        clips: ClipReader,
        sizes: Sequence[VideoSize],
        frame_rate: float,
        reference_scale: int | None = 1,
    ) -> None:
        self._scale = reference_scale
        self.reference_scale = _checked_scale(reference_scale, sizes, vae)
        self.vae = vae
        self.frame_rate = frame_rate
        self.clips = [clips.with_size(*size) for size in sizes]
        # Numbers of the sizes lie interleaved, so that a step's number of a clip means the same in all of them.
        count = len(self.clips)
        self.buckets: dict[VideoSize, Sequence[int]] = {
            size: range(index, ENDLESS, count) for index, size in enumerate(sizes)
        }

    def __getitem__(self, number: int) -> LatentSample:
        reader, index = self._clip(number)
        clip = reader[index]
        posterior = self._encode(clip.frames)
        extras = encode_extras(self.vae, clip, self._scale)
        return LatentSample(
            mean=posterior.mean,
            deviation=posterior.deviation,
            frame_rate=clip.frame_rate or self.frame_rate,
            caption=clip.caption,
            name=clip.name,
            references=extras.references,
            reference_scale=self.reference_scale,
            mask=extras.mask,
            conditions=extras.conditions,
        )

    def describe(self, number: int) -> str:
        """Words that identify a sample."""
        reader, index = self._clip(number)
        return reader.name(index)

    def caption(self, number: int, rng: np.random.Generator) -> str:
        """A wording of a clip."""
        reader, index = self._clip(number)
        return reader.caption(index, rng)

    def clip_number(self, number: int) -> int:
        """The number that a sample's clip has in its reader."""
        return number // len(self.clips)

    def view(self, number: int, view: View) -> Posterior:
        """The posterior of a view."""
        reader, index = self._clip(number)
        return self._encode(view(index, reader[index].frames))

    def _clip(self, number: int) -> tuple[ClipReader, int]:
        index, bucket = divmod(number, len(self.clips))
        return self.clips[bucket], index

    def _encode(self, frames: np.ndarray) -> Posterior:
        mean, deviation = encode_posterior(self.vae, frames[None])
        return Posterior(mean[0], deviation[0])


def _ratios(vae: AutoencoderKLLTX) -> CompressionRatios:
    return CompressionRatios(
        vae.temporal_compression_ratio, vae.spatial_compression_ratio, vae.spatial_compression_ratio
    )


def _checked_scale(scale: int | None, sizes: Sequence[VideoSize], vae: AutoencoderKLLTX) -> int:
    """A scale of references that suits all sizes; 1 where there are none."""
    if scale is not None and scale != 1:
        check_reference_sizes(sizes, scale, _ratios(vae))
    return scale or 1


def check_sizes(source: Any, sizes: Sequence[VideoSize]) -> None:
    """Check that a source has samples of all these sizes.

    Raises:
        InputError: If it has none of one of them.
    """
    missing = [size for size in sizes if size not in source.buckets]
    if missing:
        known = ", ".join("x".join(map(str, size)) for size in source.buckets)
        raise InputError(
            "config key 'buckets': the latents have no sample of this size (frames x height x width)",
            got="x".join(map(str, missing[0])),
            expected=f"one of {known}",
        )
