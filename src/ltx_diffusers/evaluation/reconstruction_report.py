"""How well an autoencoder reconstructs a set of clips, how fast, and in how much memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .latent_report import MOST_DB, as_frames, as_model_input, common_size
from .metrics import flicker_of_steps, measures
from .plain import rounded
from .resources import Usage, memory_in_use
from .statistics import mean_interval
from .vae_adapter import VideoAutoencoder

DEFAULT_LEVEL = "default"
DECODE_LEVELS = (0.0, 0.025, 0.05, 0.1, 0.2)
"""Noise levels that a denoising decoder is tried at; the paper's are up to 0.2."""

FrameDistance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A measure of two videos (F, H, W, 3) in [0, 1] that gives (F,)."""


@dataclass(order=True)
class ShownClip:
    """A clip with its reconstruction, for looking at.

    Attributes:
        error: By which clips are ordered: minus its PSNR in dB.
        number: Of the clip.
        name: Of the clip.
        original, copy: uint8 (F, H, W, 3).
    """

    error: float
    number: int
    name: str = field(compare=False)
    original: np.ndarray = field(compare=False)
    copy: np.ndarray = field(compare=False)


def measure_reconstruction(
    autoencoder: VideoAutoencoder,
    clips: Iterable[Any],
    *,
    levels: Sequence[float] | None = None,
    extra: dict[str, FrameDistance] | None = None,
    seed: int = 0,
    num_shown: int = 4,
    on_clip: Callable[[], object] | None = None,
) -> tuple[dict[str, Any], list[ShownClip]]:
    """Send clips through an autoencoder and compare what comes back, one clip at a time.

    Everything in the registry `measures` is measured, so plugins' measures are too.

    Args:
        autoencoder: The model.
        clips: `data.clips.Clip` objects of one size.
        levels: Decode noise levels besides the model's own settings, for a decoder that takes one; None for
            `DECODE_LEVELS`, which a decoder that takes none ignores.
        extra: Further measures by frame, such as LPIPS.
        seed: Of the decoding noise; each clip has its own.
        num_shown: Give back so many clips, those with the lowest PSNR.
        on_clip: Called when a clip is done.

    Returns:
        The report as plain values, and the worst clips at the model's own settings, worst first. The report has
        "model"; "figures": for each level and measure its mean, 95 % interval and worst clip; "by_frame": means by
        index of the frame (flicker: of the step into it); "resources": seconds, throughput at one clip at a time
        (the first clip isn't counted, if there are others), peak memory above what was in use with the model loaded.

    Raises:
        InputError: If there are no clips, they differ in size, the model can't take them, or levels were asked of a
            decoder that takes none.
    """
    if levels and not autoencoder.takes_noise_level:
        raise InputError(f"the decoder of {autoencoder.name} takes no noise level", got=list(levels))
    tried = tuple(DECODE_LEVELS if levels is None else levels) if autoencoder.takes_noise_level else ()
    table = _Table(autoencoder, (None, *tried), extra or {}, seed)
    shown: list[ShownClip] = []
    for number, clip in enumerate(clips):
        figures = table.add(number, clip.frames)
        error = -figures["psnr"] if "psnr" in figures else 0.0
        entry = ShownClip(error, number, clip.name or f"clip {number}", *table.last_pair)
        heapq.heappush(shown, entry)
        if len(shown) > num_shown:
            heapq.heappop(shown)
        if on_clip is not None:
            on_clip()
    return rounded(table.report()), sorted(shown, reverse=True)


class _Table:
    """Collects the figures of clips."""

    def __init__(
        self,
        autoencoder: VideoAutoencoder,
        levels: tuple[float | None, ...],
        extra: dict[str, FrameDistance],
        seed: int,
    ) -> None:
        self.autoencoder, self.levels, self.seed = autoencoder, levels, seed
        self.measures = {name: measures.get(name) for name in measures.list()} | extra
        self.names: dict[str, list[dict[str, float]]] = {_label(level): [] for level in levels}
        self.frames: dict[str, dict[str, list[np.ndarray]]] = {_label(level): {} for level in levels}
        self.size: tuple[int, int, int] | None = None
        self.facts: dict[str, Any] = {}
        self.memory_before: int | None = None
        self.encoding: list[Usage] = []
        self.decoding: list[Usage] = []
        self.last_pair: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))

    def add(self, number: int, frames: np.ndarray) -> dict[str, float]:
        """Measure a clip; its figures at the model's own settings."""
        size = common_size([frames])
        if self.size is None:
            self.size = size
            self.memory_before = memory_in_use(self.autoencoder.device)
            encoded = self.autoencoder.check_round_trip(*size)
            self.facts = self.autoencoder.describe(encoded, size)
        elif self.size != size:
            raise InputError("the clips must have one size", got=size, expected=self.size)
        # As a file would hold it: then a perfect autoencoder has no error.
        original = np.round(frames * 255).astype(np.float32) / 255
        video = as_model_input(original).to(self.autoencoder.device)
        with Usage(self.autoencoder.device) as usage:
            latents = self.autoencoder.encode(video).mean
        self.encoding.append(usage)
        for level in self.levels:
            generator = torch.Generator().manual_seed(
                int(np.random.default_rng((self.seed, number)).integers(2**62))
            )
            with Usage(self.autoencoder.device) as usage:
                copy = self.autoencoder.decode(latents, generator, level)
            copy = as_frames(copy)
            if level is None:
                self.decoding.append(usage)
                self.last_pair = (_bytes(original), _bytes(copy))
            self._measure(_label(level), original, copy)
        return self.names[DEFAULT_LEVEL][-1]

    def _measure(self, label: str, original: np.ndarray, copy: np.ndarray) -> None:
        row = {}
        for name, measure in self.measures.items():
            value = np.minimum(
                np.asarray(measure(original, copy), dtype=float), MOST_DB if name == "psnr" else np.inf
            )
            row[name] = float(value.mean())
            if value.ndim:
                self.frames[label].setdefault(name, []).append(value)
        if len(original) > 1:
            self.frames[label].setdefault("flicker", []).append(flicker_of_steps(original, copy))
        self.names[label].append(row)

    def report(self) -> dict[str, Any]:
        if self.size is None:
            raise InputError("there are no clips to measure on")
        frames, height, width = self.size
        return {
            "model": self.facts,
            "clips": len(self.encoding),
            "size": {"frames": frames, "height": height, "width": width},
            "seed": self.seed,
            "figures": {label: _figures(rows) for label, rows in self.names.items()},
            "by_frame": {
                label: {name: np.mean(values, axis=0).tolist() for name, values in entries.items()}
                for label, entries in self.frames.items()
            },
            "resources": {
                "device": _device_name(self.autoencoder.device),
                "threads": torch.get_num_threads(),
                "encode": _speed(self.encoding, self.size, self.memory_before),
                "decode": _speed(self.decoding, self.size, self.memory_before),
            },
        }


def _figures(rows: list[dict[str, float]]) -> dict[str, Any]:
    result = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        worst = min if name in HIGHER_IS_BETTER else max
        result[name] = {
            "mean": float(np.mean(values)),
            "interval": list(mean_interval(values)),
            "worst": worst(values) if name in KNOWN_ORDER else None,
        }
    return result


HIGHER_IS_BETTER = frozenset(("psnr", "ssim"))
LOWER_IS_BETTER = frozenset(("flicker", "lpips"))
KNOWN_ORDER = HIGHER_IS_BETTER | LOWER_IS_BETTER


def _speed(usages: list[Usage], size: tuple[int, int, int], before: int | None) -> dict[str, Any]:
    counted = usages[1:] or usages
    seconds = float(np.mean([usage.seconds for usage in counted]))
    peaks = [usage.peak_bytes for usage in usages if usage.peak_bytes is not None]
    pixels = size[0] * size[1] * size[2]
    return {
        "seconds_per_clip": seconds,
        "frames_per_second": size[0] / seconds,
        "megapixels_per_second": pixels / seconds / 1e6,
        "peak_bytes": max(0, max(peaks) - before) if peaks and before is not None else None,
    }


def _label(level: float | None) -> str:
    return DEFAULT_LEVEL if level is None else f"{level:g}"


def _bytes(frames: np.ndarray) -> np.ndarray:
    return np.round(frames * 255).astype(np.uint8)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
