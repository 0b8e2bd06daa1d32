"""Latents of training clips, with frame rates, references, masks and conditions, encoded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..data.clips import Clip, ClipReader
from ..geometry import CompressionRatios
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from .clip_extras import Extras, conditions_of, latent_mask, references_of
from .samples import GivenLatents
from .vae import to_model_range

_BATCH = 8
_PIXELS = 2**22
"""No more pixels than this are encoded at once, but for a clip that has more by itself."""
# First words of the names of clips' extras on disk.
_REFERENCE, _MASK = "reference", "mask"
_FRAMES, _CONDITION, _DEVIATION = "condition-frames", "condition", "condition-deviation"
_NO_RATE = 0.0
"""Stands for the frame rate of a clip that tells none."""

View = Callable[[int, np.ndarray], np.ndarray]
"""What is encoded of a clip, by its number and frames (F, H, W, 3). Its repr says all about it."""


@torch.no_grad()
def cached_posteriors(
    vae: AutoencoderKLLTX,
    clips: ClipReader,
    count: int,
    folder: Path,
    view: View | None = None,
    reference_scale: int | None = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior means and standard deviations of the first `count` clips, normalised by the VAE's statistics.

    They are encoded the first time and then read from `folder`, under a name made of the clips' settings and the
    encoder's weights: another VAE or another set never reads stale latents.

    Args:
        vae: Encodes them.
        clips: The set.
        count: How many.
        folder: Where they are kept.
        view: What is encoded of each clip; the clip itself if None, and with it what belongs to it (`Extras`).
        reference_scale: How many times fewer pixels a side references get than their clips; None leaves them out.

    Returns:
        means: (N, C, F', H', W') float32.
        deviations: (N, C or 1, F', H', W') float32.

    Raises:
        InputError: If a reference, a mask or a condition doesn't fit its clip.
    """
    path = _path(vae, clips, count, folder, view, reference_scale)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        means, deviations, rates, extras = [], [], [], {}
        size = clips.num_frames * clips.height * clips.width
        step = max(1, min(_BATCH, _PIXELS // size))
        batches = track(
            range(0, count, step), "encoding clips", console=Console(stderr=True), update_period=1.0
        )
        for start in batches:
            numbers = range(start, min(start + step, count))
            read = [(number, clips[number]) for number in numbers]
            rates += [clip.frame_rate or _NO_RATE for _, clip in read]
            frames = [clip.frames if view is None else view(number, clip.frames) for number, clip in read]
            frames = np.stack(frames)
            mean, deviation = _encode(vae, frames)
            means.append(mean)
            deviations.append(deviation)
            if view is None:
                extras |= _encode_extras(vae, read, reference_scale)
        partial = path.with_suffix(".partial")
        tensors = {"mean": torch.cat(means), "deviation": torch.cat(deviations), **extras}
        if any(rates):
            tensors["frame_rate"] = torch.tensor(rates)
        save_file(tensors, partial)
        partial.replace(path)
    stored = load_file(path)
    return _normalized(vae, stored["mean"], stored["deviation"])


def cached_frame_rates(
    vae: AutoencoderKLLTX, clips: ClipReader, count: int, folder: Path, reference_scale: int | None = 1
) -> list[float | None]:
    """Frame rates of clips that `cached_posteriors` has encoded; None where a clip tells none."""
    with safe_open(_path(vae, clips, count, folder, None, reference_scale), "pt") as stored:
        names = stored.keys()
        if "frame_rate" not in names:
            return [None] * count
        return [rate or None for rate in stored.get_tensor("frame_rate").tolist()]


def cached_extras(
    vae: AutoencoderKLLTX, clips: ClipReader, count: int, folder: Path, reference_scale: int | None = 1
) -> list[Extras]:
    """What belongs to clips that `cached_posteriors` has encoded."""
    with safe_open(_path(vae, clips, count, folder, None, reference_scale), "pt") as stored:
        names = set(stored.keys())

        def kept(kind: str, number: int) -> Iterator[torch.Tensor]:
            place = 0
            while (name := _extra_name(kind, number, place)) in names:
                yield stored.get_tensor(name)
                place += 1

        def given(number: int) -> tuple[GivenLatents, ...] | None:
            frames = next(kept(_FRAMES, number), None)
            if frames is None:
                return None
            posteriors = zip(kept(_CONDITION, number), kept(_DEVIATION, number), strict=True)
            normalized = (_normalized(vae, mean[None], deviation[None]) for mean, deviation in posteriors)
            return tuple(
                GivenLatents(frame, mean[0], deviation[0])
                for frame, (mean, deviation) in zip(frames.tolist(), normalized, strict=True)
            )

        return [
            Extras(
                tuple(_normalized(vae, mean[None], mean[None])[0][0] for mean in kept(_REFERENCE, number)),
                next(kept(_MASK, number), None),
                given(number),
            )
            for number in range(count)
        ]


@torch.no_grad()
def encode_extras(vae: AutoencoderKLLTX, clip: Clip, reference_scale: int | None) -> Extras:
    """What belongs to a clip, as latents on the CPU.

    Raises:
        InputError: If a reference, the mask or a condition doesn't fit the clip.
    """
    frames = [] if reference_scale is None else references_of(clip, reference_scale)
    means = tuple(encode_posterior(vae, reference[None])[0][0] for reference in frames)
    posteriors = [(each.frame, encode_posterior(vae, each.frames[None])) for each in conditions_of(clip)]
    given = tuple(GivenLatents(frame, mean[0], deviation[0]) for frame, (mean, deviation) in posteriors)
    return Extras(means, latent_mask(clip, _ratios(vae)), None if clip.conditions is None else given)


def _encode_extras(
    vae: AutoencoderKLLTX, clips: Sequence[tuple[int, Clip]], reference_scale: int | None
) -> dict[str, torch.Tensor]:
    """What belongs to clips with these numbers, by its names on disk; latents aren't normalised."""
    extras = {}
    alike: dict[tuple[int, ...], dict[tuple[str, int, int], np.ndarray]] = {}
    for number, clip in clips:
        mask = latent_mask(clip, _ratios(vae))
        if mask is not None:
            extras[_extra_name(_MASK, number)] = mask
        references = [] if reference_scale is None else references_of(clip, reference_scale)
        for place, frames in enumerate(references):
            alike.setdefault(frames.shape, {})[_REFERENCE, number, place] = frames
        for place, given in enumerate(conditions_of(clip)):
            alike.setdefault(given.frames.shape, {})[_CONDITION, number, place] = given.frames
        if clip.conditions is not None:
            begins = [given.frame for given in clip.conditions]
            extras[_extra_name(_FRAMES, number)] = torch.tensor(begins, dtype=torch.int64)
    for frames in alike.values():
        posteriors = zip(*_encode(vae, np.stack(list(frames.values()))), strict=True)
        for (kind, number, place), (mean, deviation) in zip(frames, posteriors, strict=True):
            extras[_extra_name(kind, number, place)] = mean.clone()
            if kind == _CONDITION:
                extras[_extra_name(_DEVIATION, number, place)] = deviation.clone()
    return extras


def _extra_name(kind: str, number: int, place: int = 0) -> str:
    return f"{kind} {number} {place}"


def _ratios(vae: AutoencoderKLLTX) -> CompressionRatios:
    side = vae.spatial_compression_ratio
    return CompressionRatios(vae.temporal_compression_ratio, side, side)


@torch.no_grad()
def encode_posterior(vae: AutoencoderKLLTX, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior means and standard deviations of clips, normalised by the VAE's statistics, on the CPU.

    Args:
        vae: Encodes them, in bfloat16.
        frames: (B, F, H, W, 3) in [0, 1].

    Returns:
        means: (B, C, F', H', W') float32.
        deviations: (B, C or 1, F', H', W') float32.
    """
    return _normalized(vae, *_encode(vae, frames))


def _encode(vae: AutoencoderKLLTX, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    video = to_model_range(frames).to(vae.device)
    with torch.autocast(vae.device.type, torch.bfloat16):
        posterior = vae.encode(video).latent_dist
    channels = 1 if vae.config.get("shared_log_variance", True) else None  # one for all channels
    return posterior.mean.float().cpu(), posterior.std[:, :channels].float().cpu()


def _normalized(
    vae: AutoencoderKLLTX, mean: torch.Tensor, deviation: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    center, scale = (
        value.float().cpu()[None, :, None, None, None] for value in (vae.latents_mean, vae.latents_std)
    )
    factor = vae.config.scaling_factor
    return (mean - center) * factor / scale, deviation * factor / scale


def _path(
    vae: AutoencoderKLLTX,
    clips: ClipReader,
    count: int,
    folder: Path,
    view: View | None,
    reference_scale: int | None,
) -> Path:
    what = [repr(clips), count] + ([] if view is None else [repr(view)])
    if view is None and reference_scale != 1:
        what.append(f"references by {reference_scale}")
    digest = hashlib.sha256(json.dumps(what).encode())
    for name, weight in sorted(vae.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return folder / f"latents-{digest.hexdigest()[:16]}.safetensors"
