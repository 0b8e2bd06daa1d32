"""A long video: its windows denoised one after the other, each going on from those before, decoded as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..denoising.conditions import Condition, InPlaceCondition, KeyframeCondition
from ..errors import InputError
from ..functional.blending import crossfade
from ..functional.latent_statistics import match_statistics
from .decoding import decode_latents
from .frames import to_bytes
from .images import encode_frames
from .request import Request, per_video
from .stream_decoding import StreamDecoder
from .window_files import WindowFiles
from .windows import Window

if TYPE_CHECKING:
    from .pipeline_ltx_long_video import LTXLongVideoPipeline

# Latent frames around a frame that are decoded to see it; a decoder looks both ways.
_CONTEXT = 2


@dataclass(frozen=True)
class Continuity:
    """How a window goes on from those before it.

    Attributes:
        overlap_strength: How strongly the overlap is given, above 0 to 1. At 1 it stays as it is; below it is made
            again together with the new frames, and one version fades into the other.
        drift_control: Share by which each channel's mean and deviation are brought to those of the first window,
            0 to 1 (AdaIN; ComfyUI's looping sampler and Diffusers' long pipeline do the same).
        anchor_strength: How strongly the video's first frame is given to every later window, 0 to 1, as an extra
            token shortly before its start (there called a latent at a negative index).

    Raises:
        InputError: If a number is out of range.
    """

    overlap_strength: float = 1.0
    drift_control: float = 0.0
    anchor_strength: float = 0.0

    def __post_init__(self) -> None:
        for name in ("overlap_strength", "drift_control", "anchor_strength"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= 1 or (name == "overlap_strength" and value == 0):
                expected = "above 0 and at most 1" if name == "overlap_strength" else "0 to 1"
                raise InputError(f"{name} is out of range", got=value, expected=expected)


@dataclass(frozen=True)
class WindowCall:
    """One window to be made.

    Attributes:
        window: Where it lies in the video.
        seed: Of its noise.
        arguments: Of `LTXConditionPipeline.__call__`.
    """

    window: Window
    seed: int
    arguments: dict[str, Any]


class LongVideo:
    """A long video that is made while it is iterated over: checked and planned, nothing computed yet.

    Iterating gives its frames piece by piece, uint8 arrays (frames, height, width, 3). Memory stays that of one
    window and one decoded tile, however long the video is. Where a callback sets the pipeline's `_interrupt`, the video
    ends with the window before.

    Args:
        pipeline: Makes it.
        calls: Its windows, in order.
        request: The first window's call with its defaults, which hold for all windows.
        continuity: How the windows go on from each other.
        files: Where finished windows are kept and found again; None: nowhere.
        decode_seed: Of the noise in decoding.
        decode_tile: Latent frames of a decoded tile, and how many of them neighbours share.

    Attributes:
        current: Number of the window that is being made.
    """

    def __init__(
        self,
        pipeline: LTXLongVideoPipeline,
        calls: Sequence[WindowCall],
        request: Request,
        continuity: Continuity,
        files: WindowFiles | None,
        decode_seed: int,
        decode_tile: tuple[int, int],
    ) -> None:
        self.pipeline = pipeline
        self.calls = calls
        self.request = request
        self.continuity = continuity
        self.files = files
        self.current = 0
        self._decode_seed = decode_seed
        self._decode_tile = decode_tile
        self._texts: dict[str, dict[str, Tensor | None]] = {}
        self.decoder()  # its tiles are checked here

    @property
    def windows(self) -> list[Window]:
        """Where the windows lie."""
        return [call.window for call in self.calls]

    @property
    def num_frames(self) -> int:
        """Frames of the whole video."""
        return self.pipeline.ratios.time * self.calls[-1].window.end + 1

    def __iter__(self) -> Iterator[np.ndarray]:
        for video in self.decoded():
            yield to_bytes(video)[0]

    def decoded(self) -> Iterator[Tensor]:
        """The frames piece by piece, (1, 3, frames, height, width), about [-1, 1]."""
        decoder = self.decoder()
        for latents in self.latents():
            yield from decoder.push(latents)
            self.pipeline.maybe_free_model_hooks()
        yield from decoder.finish()
        self.pipeline.maybe_free_model_hooks()

    def decoder(self) -> StreamDecoder:
        """A decoder for this video's latents."""
        tile, overlap = self._decode_tile
        return StreamDecoder(
            self.pipeline.vae,
            timestep=per_video(self.request, "decode_timestep")[0],
            noise_scale=per_video(self.request, "decode_noise_scale")[0],
            tone_map_compression=self.request.tone_map_compression,
            seed=self._decode_seed,
            tile=tile,
            overlap=overlap,
        )

    def latents(self) -> Iterator[Tensor]:
        """The latents piece by piece as they are final, (1, C, f, H, W), normalised.

        A window's latents are final up to where the next window begins, which may change those behind.
        """
        known, offset, reference, first, yielded = None, 0, None, None, -1
        for number, call in enumerate(self.calls):
            window = call.window
            made = self._made(number, known, offset, first)
            if made is None:  # the caller has stopped it
                if known is not None and window.given > yielded:
                    yield known[:, :, yielded + 1 - offset :]
                return
            if known is None:
                known, reference, first = made, made, made[:, :, :1].clone()
            else:
                known = self._joined(known, offset, made, window, reference)
            is_last = number + 1 == len(self.calls)
            final = window.end if is_last else self.calls[number + 1].window.start
            if final > yielded:
                yield known[:, :, yielded + 1 - offset : final + 1 - offset]
                yielded = final
            if not is_last:
                kept = max(0, final - _CONTEXT)
                known, offset = known[:, :, kept - offset :].clone(), kept

    @torch.no_grad()
    def _made(self, number: int, known: Tensor | None, offset: int, first: Tensor | None) -> Tensor | None:
        """A window's latents (1, C, f, H, W): those on the disk, or new ones; None if a callback has stopped it."""
        call, device = self.calls[number], self.pipeline._execution_device
        self.current = number
        if self.files is not None and (saved := self.files.load(number)) is not None:
            return saved.to(device)
        generator = torch.Generator().manual_seed(call.seed)
        carried = self._carried(call.window, known, offset, first, generator)
        arguments = call.arguments | self._encoded(call.arguments) | {"generator": generator}
        name = f"window {number + 1} of {len(self.calls)}"
        made = self.pipeline._window_latents(arguments, carried, name)
        if self.pipeline.interrupt:
            return None
        if self.files is not None:
            self.files.save(number, made)
        return made

    def _carried(
        self,
        window: Window,
        known: Tensor | None,
        offset: int,
        first: Tensor | None,
        generator: torch.Generator,
    ) -> list[Condition]:
        """What a window is given of those before it."""
        if known is None:
            return []
        latents = known[:, :, window.start - offset : window.given + 1 - offset]
        if window.start > 0:
            head = self._single_frame(window, known, offset, generator)
            latents = torch.cat([head, latents[:, :, 1:]], dim=2)
        carried: list[Condition] = [InPlaceCondition(latents, self.continuity.overlap_strength)]
        if self.continuity.anchor_strength > 0 and window.start > 0:
            before = -self.pipeline.ratios.time
            carried.append(KeyframeCondition(first, self.continuity.anchor_strength, before))
        return carried

    def _single_frame(self, window: Window, known: Tensor, offset: int, generator: torch.Generator) -> Tensor:
        """The latents (1, C, 1, H, W) of the frame that a window begins with.

        In the whole video it is the last of the eight frames that a latent stands for; a window needs it alone. It is
        the only one that goes through the VAE, so that no loss adds up from window to window.
        """
        begin, end = max(0, window.start - _CONTEXT), min(window.given, window.start + _CONTEXT)
        video = decode_latents(
            self.pipeline.vae,
            known[:, :, begin - offset : end + 1 - offset],
            timestep=per_video(self.request, "decode_timestep"),
            noise_scale=per_video(self.request, "decode_noise_scale"),
            generator=generator,
            tone_map_compression=self.request.tone_map_compression,
        )
        frame = self.pipeline.ratios.time * (window.start - begin)
        picture = video[:, :, frame : frame + 1].clamp(-1, 1)
        return encode_frames(self.pipeline.vae, picture, 1, generator)

    def _joined(self, known: Tensor, offset: int, made: Tensor, window: Window, reference: Tensor) -> Tensor:
        """What is known, with a window behind it; over what it was given, the one fades into the other."""
        before = known[:, :, window.start + 1 - offset :]
        overlap = before.shape[2]
        if self.continuity.overlap_strength == 1:  # the noise against still videos leaves a trace
            made = torch.cat([made[:, :, :1], before, made[:, :, 1 + overlap :]], dim=2)
        made = match_statistics(made, reference, self.continuity.drift_control)
        faded = crossfade(before, made[:, :, 1 : 1 + overlap], dim=2)
        return torch.cat([known[:, :, : window.start + 1 - offset], faded, made[:, :, 1 + overlap :]], dim=2)

    def _encoded(self, arguments: dict[str, Any]) -> dict[str, Tensor | None]:
        """The prompts as features, so that every text is encoded once."""
        text = arguments["prompt"]
        if text not in self._texts:
            embeds, mask, negative, negative_mask = self.pipeline.encode_prompt(
                text,
                arguments.get("negative_prompt"),
                self.request.guided,
                max_sequence_length=self.request.max_sequence_length,
            )
            self._texts[text] = {
                "prompt": None,
                "negative_prompt": None,
                "prompt_embeds": embeds,
                "prompt_attention_mask": mask,
                "negative_prompt_embeds": negative,
                "negative_prompt_attention_mask": negative_mask,
            }
        return self._texts[text]
