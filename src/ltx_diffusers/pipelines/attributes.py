"""Attributes that code written for Diffusers' LTX pipelines reads."""

from __future__ import annotations

from typing import Any

from diffusers.video_processor import VideoProcessor
from torch import Tensor

TEXT_LENGTH = 256
"""Tokens of a text, as the released models were trained."""


class DiffusersAttributes:
    """Mixin of a pipeline: what Diffusers' LTX pipelines note when they are built or called.

    The first is read from the components instead; `LTXPipelineBase` sets the second.
    """

    @property
    def vae_spatial_compression_ratio(self) -> int:
        """Rows and columns of pixels for one latent."""
        return self.vae.spatial_compression_ratio

    @property
    def vae_temporal_compression_ratio(self) -> int:
        """Frames for one latent."""
        return self.vae.temporal_compression_ratio

    @property
    def transformer_spatial_patch_size(self) -> int:
        """Latent rows and columns of a token."""
        return self.transformer.config.patch_size

    @property
    def transformer_temporal_patch_size(self) -> int:
        """Latent frames of a token."""
        return self.transformer.config.patch_size_t

    @property
    def tokenizer_max_length(self) -> int:
        """Tokens that the tokenizer was made for. A call's own default is `max_sequence_length`."""
        return TEXT_LENGTH if self.tokenizer is None else self.tokenizer.model_max_length

    @property
    def video_processor(self) -> VideoProcessor:
        """Diffusers' converter between videos and tensors; the pipelines here have their own."""
        return VideoProcessor(vae_scale_factor=self.vae_spatial_compression_ratio)

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the current call."""
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        """Guidance rescale of the current call, 0 (off) to 1 (full)."""
        return self._guidance_rescale

    @property
    def num_timesteps(self) -> int:
        """Steps of the current call."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep in [0, 1000] that the current call is at."""
        return self._current_timestep

    @property
    def attention_kwargs(self) -> dict[str, Any] | None:
        """What the current call passes on to the transformer."""
        return self._attention_kwargs

    @property
    def interrupt(self) -> bool:
        """Whether the current call takes no further step; a callback sets `pipe._interrupt = True`."""
        return self._interrupt
