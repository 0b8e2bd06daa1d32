"""Coding within a memory budget, and videos that come and go in pieces: the part of the model's class for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.logging import get_logger

from ...errors import InputError
from ...functional.generators import Generators
from ...functional.memory_size import parse_memory
from ...geometry import VideoSize, check_video_size, latent_size
from .budget import Plan, choose_plan, video_numbers
from .coding import (
    can_run_in_pieces,
    decode_in_pieces,
    decoded_pieces,
    encode_in_pieces,
    prefers_pieces,
)
from .layout import decoder_layout, encoder_layout
from .tiling import Tiling

Coder = Callable[..., torch.Tensor]

logger = get_logger(__name__)

# Latent frames of a video of unknown length, more than any part of the model works on at a time.
_ENDLESS = 10**6


class CodesInBoundedMemory:
    """What `AutoencoderKLLTX` does in pieces.

    Without gradients on a CPU, videos are encoded and decoded in pieces of which each part of the model takes as many
    frames as are good for its resolution (see `cascade`): the same result in less time and memory. Elsewhere the
    model runs as a whole, unless a memory budget asks for pieces.
    """

    use_pieces: bool | None = None
    """Whether to work in pieces; None for: on a CPU, without gradients. A memory budget overrules False."""

    _memory_budget: int | None = None

    def enable_memory_budget(self, budget: str | int) -> None:
        """Choose how to encode and decode by the memory that it may take.

        Without gradients, the fastest exact way that fits is taken: in pieces of fewer and fewer frames, which costs
        little time. Only if none fits, overlapping tiles are blended, with a warning: that isn't exact, because the
        model sees further than a tile. Tiling that was enabled stays as it is, and each tile fits the budget.

        Args:
            budget: Bytes, or text such as "6GB" or "500MB". Counted is what is held beside the weights and the
                given tensor, with the result. Libraries may take some more for themselves.

        Raises:
            InputError: If it isn't a positive size; when coding, if no way fits.
        """
        self._memory_budget = parse_memory(budget)

    def disable_memory_budget(self) -> None:
        """Don't limit memory any more."""
        self._memory_budget = None

    def decodes_in_pieces(self, z: torch.Tensor) -> bool:
        """Whether `decode` would work on `z` as one video in pieces, so that `decode_stream` can stand in for it."""
        wanted = prefers_pieces(self.decoder, z) if self.use_pieces is None else self.use_pieces
        cut = self.use_tiling or self.use_framewise_decoding or self.use_slicing
        # Offloading moves the model away again when the call ends.
        stays = not hasattr(self, "_hf_hook") and can_run_in_pieces(self.decoder)
        return (wanted or self._memory_budget is not None) and stays and not cut

    @torch.no_grad()
    def decode_stream(
        self,
        z: torch.Tensor | Iterable[torch.Tensor],
        temb: torch.Tensor | float | None = None,
        generator: Generators = None,
    ) -> Iterator[torch.Tensor]:
        """Decode latents and give the frames as they are known: what `decode` gives, without holding the video.

        The released decoders look ahead: the first frames come after about 22 latent frames, or at the end.

        Args:
            z: Latents (B, latent_channels, F', H', W'), not normalised, or an iterable of pieces of them in time.
            temb: As `decode`; one for all pieces.
            generator: As `decode`.

        Yields:
            Frames (B, out_channels, f, 32 H', 32 W') in their order, of any number.

        Raises:
            InputError: As `decode`, or if hooks on the decoder's layers don't let them run in pieces.
        """
        self._check_pieces(self.decoder)
        pieces = iter([z] if isinstance(z, torch.Tensor) else z)
        first = next(pieces, None)
        if first is None:
            raise InputError("there are no latents to decode", got="no pieces")
        self._check_latents(first, generator)
        size = VideoSize(0, *first.shape[3:])
        plan = self._plan(first, size._replace(frames=_ENDLESS), decode=True, result=0, tiles=False)
        checked = self._checked_pieces(first, pieces)
        levels = self._noise_levels(temb, first)
        for piece in decoded_pieces(self.decoder, checked, levels, generator, plan.pixels):
            yield piece.flatten(5, 6).flatten(3, 4)

    @torch.no_grad()
    def encode_stream(self, pieces: Iterable[torch.Tensor]) -> AutoencoderKLOutput:
        """Encode a video that comes in pieces, without holding it; exact, however it is cut.

        Args:
            pieces: Tensors (B, C, f, H, W) in [-1, 1] of any number of frames, 8k + 1 together.

        Returns:
            What `encode` gives for the whole video.

        Raises:
            InputError: As `encode`, or if hooks on the encoder's layers don't let them run in pieces.
        """
        self._check_pieces(self.encoder)
        pieces = iter(pieces)
        first = next(pieces, None)
        if first is None:
            raise InputError("there are no frames to encode", got="no pieces")
        self._check_video(first)
        check_video_size(1, *first.shape[-2:], self.compression_ratios)
        size = latent_size(VideoSize(1, *first.shape[-2:]), self.compression_ratios)
        plan = self._plan(first, size._replace(frames=_ENDLESS), decode=False, result=0, tiles=False)
        counted = _Counted(self._checked_pieces(first, pieces))
        ratio = self.temporal_compression_ratio
        moments = encode_in_pieces(self.encoder, counted, ratio, plan.pixels)
        check_video_size(counted.frames, *first.shape[-2:], self.compression_ratios)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def _encoder_for(self, video: torch.Tensor, tiling: Tiling) -> tuple[Coder, Tiling]:
        """How to encode videos like this one."""
        size = latent_size(VideoSize(*video.shape[2:]), self.compression_ratios)
        channels = 2 * self.config.latent_channels
        result = 2 * size.frames * size.height * size.width * channels
        plan = self._plan_within(tiling, video, size, decode=False, result=result)
        if plan is None:
            return self.encoder, tiling
        ratio = self.temporal_compression_ratio
        coder = lambda x: encode_in_pieces(self.encoder, [x], ratio, plan.pixels)  # noqa: E731
        return coder, self._tiling_of(plan, tiling)

    def _decoder_for(self, latents: torch.Tensor, tiling: Tiling) -> tuple[Coder, Tiling]:
        """How to decode latents like these."""
        size = VideoSize(*latents.shape[2:])
        result = video_numbers(size, self.compression_ratios, self.config.out_channels)
        plan = self._plan_within(tiling, latents, size, decode=True, result=result)
        if plan is None:
            return self.decoder, tiling
        coder = partial(decode_in_pieces, self.decoder, pixels=plan.pixels)
        return coder, self._tiling_of(plan, tiling)

    def _plan_within(
        self, tiling: Tiling, tensor: torch.Tensor, size: VideoSize, *, decode: bool, result: int
    ) -> Plan | None:
        """A plan for the video, or for the tiles that it is cut into anyway; None to run the model as a whole."""
        model = self.decoder if decode else self.encoder
        wanted = prefers_pieces(model, tensor) if self.use_pieces is None else self.use_pieces
        if self._memory_budget is not None:
            if torch.is_grad_enabled() or not can_run_in_pieces(model):
                logger.warning(
                    "The memory budget of the autoencoder isn't kept: with gradients, or hooks on its layers, it runs "
                    "as a whole."
                )
                return None
            wanted = True
        if not wanted or torch.is_grad_enabled() or not can_run_in_pieces(model):
            return None
        height, width, time = (
            length if axis is None else min(length, axis.size // axis.ratio)
            for length, axis in (
                (size.height, tiling.height),
                (size.width, tiling.width),
                (size.frames, tiling.time),
            )
        )
        return self._plan(tensor, VideoSize(time, height, width), decode=decode, result=result)

    def _plan(
        self, tensor: torch.Tensor, size: VideoSize, *, decode: bool, result: int, tiles: bool = True
    ) -> Plan:
        ratios = self.compression_ratios

        def layout(height: int, width: int) -> list:
            if decode:
                return decoder_layout(self.decoder, height, width)
            return encoder_layout(self.encoder, height * ratios.height, width * ratios.width, ratios.time)

        batch = tensor.shape[0]
        numbers, item = batch * result, tensor.dtype.itemsize
        return choose_plan(layout, size, batch, numbers, item, self._memory_budget, tiles)

    def _tiling_of(self, plan: Plan, tiling: Tiling) -> Tiling:
        """The caller's tiling, or that of the plan."""
        if plan.tile is None or tiling.height is not None or tiling.width is not None:
            return tiling
        logger.warning(
            "No exact way of coding fits the memory budget: tiles of %d pixels are blended.",
            plan.tile * self.spatial_compression_ratio,
        )
        time = None if tiling.time is None else (tiling.time.size, tiling.time.stride)
        side = tuple(each * self.spatial_compression_ratio for each in (plan.tile, plan.stride))
        return Tiling.from_sizes(self.compression_ratios, time, side, side)

    def _check_pieces(self, model: torch.nn.Module) -> None:
        if not can_run_in_pieces(model):
            raise InputError(
                "hooks or other layers in the autoencoder don't let it run in pieces",
                fix="remove offloading, casting or adapters, or use encode and decode",
            )

    def _checked_pieces(self, first: torch.Tensor, others: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The pieces, once each is known to go with the first."""
        yield first
        for piece in others:
            same = piece.shape[:2] + piece.shape[3:] == first.shape[:2] + first.shape[3:]
            if piece.ndim != 5 or not same or piece.shape[2] == 0:
                raise InputError(
                    "the pieces of a video must be alike but for their frames",
                    got=tuple(piece.shape),
                    expected=f"{tuple(first.shape)} with any number of frames above 0",
                )
            yield piece


class _Counted:
    """Pieces whose frames are counted as they go by."""

    def __init__(self, pieces: Iterable[torch.Tensor]) -> None:
        self._pieces = pieces
        self.frames = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        for piece in self._pieces:
            self.frames += piece.shape[2]
            yield piece
