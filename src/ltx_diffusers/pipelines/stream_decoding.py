"""Decoding latents piece by piece while they are made, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..functional.blending import crossfade
from .decoding import decode_latents

DEFAULT_TILE, DEFAULT_OVERLAP = 8, 2
"""Latent frames of a tile after its first, and how many of them neighbours share: 65 frames, 16 of them shared."""


class StreamDecoder:
    """Decodes one video whose latents come in pieces of any length.

    It cuts the latents into the tiles in time that the VAE's own framewise decoding takes and joins them in the same
    way (`models.autoencoders.tiling`), so the result doesn't depend on the pieces. Held are at most one tile of latents
    and the frames that the next tile will be faded into.

    Args:
        vae: Ours or Diffusers'.
        timestep: Noise level that a denoising decoder is told.
        noise_scale: Share of noise that it gets; drawn latent frame by latent frame.
        tone_map_compression: See `functional.latent_statistics.tone_map`.
        seed: Of all noise in decoding.
        tile: Latent frames of a tile after its first.
        overlap: Latent frames that neighbouring tiles share.

    Raises:
        InputError: If the tiles don't overlap by less than their size.
    """

    def __init__(
        self,
        vae: Any,
        *,
        timestep: float,
        noise_scale: float,
        tone_map_compression: float = 0.0,
        seed: int = 0,
        tile: int = DEFAULT_TILE,
        overlap: int = DEFAULT_OVERLAP,
    ) -> None:
        if not 1 <= overlap < tile:
            raise InputError(
                "the tiles that are decoded must overlap by less than their size",
                got=f"{overlap} of {tile} latent frames",
            )
        self.vae = vae
        self.timestep = timestep
        self.noise_scale = noise_scale if vae.config.timestep_conditioning else 0.0
        self.tone_map_compression = tone_map_compression
        self.tile, self.overlap = tile, overlap
        self._noise = torch.Generator().manual_seed(seed)
        self._seed = seed
        self._waiting: Tensor | None = None
        self._held: Tensor | None = None

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        """Take further latents, and give the frames that are then complete.

        Args:
            latents: Normalised latents (1, C, f, H, W) in float32.

        Yields:
            Frames (1, 3, frames, height, width), about [-1, 1].
        """
        before = [] if self._waiting is None else [self._waiting]
        self._waiting = torch.cat([*before, self._noised(latents)], dim=2)
        while self._waiting.shape[2] > self.tile:
            yield self._next_tile(self.tile + 1)

    def finish(self) -> Iterator[Tensor]:
        """The rest, after the last latents.

        Yields:
            As `push`.
        """
        known = self.overlap + 1 if self._held is not None else 0
        if self._waiting is not None and self._waiting.shape[2] > known:
            frames = self._next_tile(self._waiting.shape[2])
            if frames.shape[2] > 0:
                yield frames
        if self._held is not None:
            yield self._held
        self._waiting = self._held = None

    def _next_tile(self, size: int) -> Tensor:
        """Decode the tile that is next, and give what no further tile changes."""
        frames = self._decode(self._waiting[:, :, :size])
        # A copy, because a slice would keep all of the latents alive.
        self._waiting = self._waiting[:, :, self.tile - self.overlap :].clone()
        shared = self.overlap * self.vae.temporal_compression_ratio
        if self._held is not None:
            frames = frames[:, :, 1:]
            faded = crossfade(self._held, frames[:, :, :shared], dim=2)
            frames = torch.cat([faded, frames[:, :, shared:]], dim=2)
        cut = max(0, frames.shape[2] - shared)
        self._held = frames[:, :, cut:].clone()
        return frames[:, :, :cut]

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Tensor:
        return decode_latents(
            self.vae,
            latents,
            timestep=[self.timestep],
            noise_scale=[0.0],  # it is in the latents already, the same in every tile
            # For decoders that inject noise: one map for all frames, so every tile begins with the same state.
            generator=torch.Generator().manual_seed(self._seed),
            tone_map_compression=self.tone_map_compression,
        )

    def _noised(self, latents: Tensor) -> Tensor:
        if self.noise_scale == 0:
            return latents
        shape = latents[:, :, :1].shape
        noise = [torch.randn(shape, generator=self._noise) for _ in range(latents.shape[2])]
        noise = torch.cat(noise, dim=2).to(latents)
        return (1 - self.noise_scale) * latents + self.noise_scale * noise
