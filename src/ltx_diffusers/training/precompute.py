"""Latents and text features of a set of pictures and videos, computed once before training.

The text encoder and the VAE needn't be loaded in training then. Everything is stored under keys made of the files'
content and of all settings that matter, so what is there already is never computed again, and what is stale is never
used: an interrupted run goes on, and a changed caption costs a text and no video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..data.clips import Problem
from ..data.media_entries import MediaEntry
from ..errors import InputError
from ..functional.latents import normalize_latents
from ..geometry import CompressionRatios
from ..pipelines.text import encode_texts
from .clip_plan import ClipPlanner, ClipSettings, PreparedClip
from .fingerprints import key_of, text_fingerprint, vae_fingerprint
from .latent_store import FORMAT, LATENTS_FOLDER, TEXTS_FOLDER, text_key
from .precompute_parts import PartOfRun, Parts, PrecomputeReport, put_together
from .tensor_shards import ShardWriter

_VERSIONS_OF = ("ltx-diffusers", "torch", "diffusers", "transformers", "av")
_TEXTS_AT_ONCE = 8
_AHEAD = 2

Progress = Callable[[str, int, int], Any]
"""Called with what is being done, how many are done and how many there are."""


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """How clips and texts are encoded.

    Attributes:
        text_length: Longest text in tokens.
        batch_size: Clips of one size that are encoded together.
        workers: Threads that read and cut files ahead.
        stored_dtype: Of the latents on disk; deviations and texts stay as they are.
        tiles: Whether the VAE works in overlapping tiles, for large clips in little memory.
        shard_entries: Latents in a file, at most; so many may be lost when a run is killed.

    Raises:
        InputError: If a number isn't positive.
    """

    text_length: int = 256
    batch_size: int = 1
    workers: int = 2
    stored_dtype: Literal["float32", "float16"] = "float32"
    tiles: bool = False
    shard_entries: int = 64

    def __post_init__(self) -> None:
        """Check the numbers. Raises `InputError`."""
        for name in ("text_length", "batch_size", "workers", "shard_entries"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be positive", got=getattr(self, name))


def precompute(
    folder: str | Path,
    entries: Sequence[MediaEntry],
    problems: Sequence[Problem] = (),
    *,
    clips: ClipSettings,
    load_vae: Callable[[], Any],
    load_text: Callable[[], tuple[Any, torch.nn.Module]] | None = None,
    encoding: EncodingSettings | None = None,
    prompts: Sequence[str] = (),
    drop_duplicates: bool = False,
    prune: bool = False,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress = lambda title, done, total: None,
) -> PrecomputeReport | None:
    """Encode a set, or this process's share of it, into a folder that `LatentStore` reads.

    The same call again does only what is missing. Files that can't be used are left out and reported.

    Args:
        folder: Where everything goes. May be one of an earlier run, finished or not, with these settings or others.
        entries: The set, as `data.media_sets.find_entries` lists it; the same for all processes.
        problems: What was wrong with it so far, for the report.
        clips: What is cut out of each entry.
        load_vae: Gives the VAE, on its device, when its turn comes.
        load_text: Gives tokenizer and text encoder; they are let go before the VAE is loaded. None: no texts.
        encoding: How clips and texts are encoded.
        prompts: Texts to encode beside the captions, such as those of validation; the empty one always is.
        drop_duplicates: Whether only the first of samples with the same latents counts.
        prune: Whether files that nothing uses any more are removed at the end.
        rank, world_size: Which process this is, of how many; each takes every `world_size`-th entry.
        progress: For progress bars.

    Returns:
        What is in the folder now; None if other processes aren't finished. The last one puts everything together.

    Raises:
        InputError: If a setting can't be used, or the set gives no sample.
        MediaError: If the folder can't be written.
    """
    if not 0 <= rank < world_size:
        raise InputError("rank must lie below world_size", got=f"{rank} of {world_size}")
    folder, encoding = Path(folder), encoding or EncodingSettings()
    share = [(number, entries[number]) for number in range(rank, len(entries), world_size)]
    prompts = list(dict.fromkeys(["", *prompts]))
    parts = Parts(folder, _name_of_run(entries, clips, encoding, prompts), rank, world_size)
    parts.begin()
    part = PartOfRun({"text_encoder": None}, prompts if load_text else [])
    if load_text is not None:
        captions = {clips.caption_prefix + entry.caption: entry.name for _, entry in share}
        wanted = captions if rank else {prompt: f"the prompt {prompt!r}" for prompt in prompts} | captions
        _encode_captions(folder, part, wanted, load_text, encoding, rank, progress)
    _encode_clips(folder, part, share, clips, load_vae, encoding, rank, progress)
    parts.leave(part)
    gathered = parts.gather()
    if gathered is None:
        return None
    return put_together(folder, gathered, problems, drop_duplicates=drop_duplicates, prune=prune)


def _encode_captions(
    folder: Path,
    part: PartOfRun,
    captions: dict[str, str],
    load_text: Callable[[], tuple[Any, torch.nn.Module]],
    encoding: EncodingSettings,
    rank: int,
    progress: Progress,
) -> None:
    """Encode captions, by what they belong to, and note the text encoder in the settings."""
    tokenizer, text_encoder = load_text()
    length = encoding.text_length
    fingerprint = text_fingerprint(tokenizer, text_encoder, length)
    part.settings["text_encoder"] = {
        "fingerprint": fingerprint,
        "length": length,
        "channels": text_encoder.config.d_model,
        "dtype": str(text_encoder.dtype).removeprefix("torch."),
    }
    for caption, name in captions.items():
        tokens = len(tokenizer(caption, truncation=False, verbose=False)["input_ids"])
        if tokens > length:
            part.cut_captions.append(Problem(name, f"its caption has {tokens} tokens, {length} are used"))
    writer = ShardWriter(folder / TEXTS_FOLDER, rank)
    keys = {caption: text_key(fingerprint, caption) for caption in captions}
    missing = [caption for caption in captions if keys[caption] not in writer]
    try:
        for start in range(0, len(missing), _TEXTS_AT_ONCE):
            progress("texts", start, len(missing))
            batch = missing[start : start + _TEXTS_AT_ONCE]
            with torch.no_grad():
                features = encode_texts(
                    tokenizer,
                    text_encoder,
                    batch,
                    max_length=length,
                    device=text_encoder.device,
                    dtype=text_encoder.dtype,
                    warn_of_cuts=False,
                )
            for caption, embeds, mask in zip(batch, features.embeds, features.mask, strict=True):
                writer.put(keys[caption], {"embeds": embeds[mask].cpu()})
        progress("texts", len(missing), len(missing))
    finally:
        writer.flush()


def _encode_clips(
    folder: Path,
    part: PartOfRun,
    share: Sequence[tuple[int, MediaEntry]],
    clips: ClipSettings,
    load_vae: Callable[[], Any],
    encoding: EncodingSettings,
    rank: int,
    progress: Progress,
) -> None:
    """Encode the clips of a share with what belongs to them, and note the VAE in the settings."""
    vae = load_vae()
    ratios = CompressionRatios(
        vae.temporal_compression_ratio, vae.spatial_compression_ratio, vae.spatial_compression_ratio
    )
    clips.check_ratios(ratios)
    if encoding.tiles:
        vae.enable_tiling()
    made_with = _settings(vae, clips, encoding)
    part.settings |= made_with
    how = key_of(FORMAT, made_with["vae"]["fingerprint"], made_with["encoding"])
    writer = ShardWriter(folder / LATENTS_FOLDER, rank, entries=encoding.shard_entries)
    encoder = _BatchEncoder(vae, writer, encoding)
    planner = ClipPlanner(clips, ratios, how, writer)
    try:
        for place, clip in _read_ahead(planner, [entry for _, entry in share], encoding.workers):
            progress("clips", place, len(share))
            number, entry = share[place]
            if isinstance(clip, Problem):
                part.left_out.append(clip)
                while part.samples and part.samples[-1]["entry"] == number:
                    part.samples.pop()
                continue
            part.samples.append({"entry": number, "described": bool(entry.caption), **clip.record})
            encoder.add(clip)
        encoder.finish()
        progress("clips", len(share), len(share))
    finally:
        writer.flush()
    part.encoded = encoder.encoded


class _BatchEncoder:
    """Encodes clips as soon as enough of one size have come."""

    def __init__(self, vae: Any, writer: ShardWriter, encoding: EncodingSettings) -> None:
        self.vae, self.writer = vae, writer
        self.batch_size = encoding.batch_size
        self.dtype = getattr(torch, encoding.stored_dtype)
        self.encoded = 0
        self._waiting: dict[tuple[int, ...], dict[str, np.ndarray]] = {}

    def add(self, clip: PreparedClip) -> None:
        for key, mask in clip.masks.items():
            self.writer.put(key, {"mask": mask})
        for key, frames in clip.frames.items():
            waiting = self._waiting.setdefault(frames.shape, {})
            if key not in self.writer:
                waiting[key] = frames
            if len(waiting) >= self.batch_size:
                self._encode(frames.shape)

    def finish(self) -> None:
        for shape in list(self._waiting):
            self._encode(shape)

    @torch.no_grad()
    def _encode(self, shape: tuple[int, ...]) -> None:
        waiting = self._waiting.pop(shape)
        if not waiting:
            return
        vae = self.vae
        frames = torch.from_numpy(np.stack(list(waiting.values()))).permute(0, 4, 1, 2, 3)
        video = (frames.to(vae.device).float() / 127.5 - 1).to(vae.dtype)
        posterior = vae.encode(video).latent_dist
        mean = normalize_latents(
            posterior.mean.float(), vae.latents_mean, vae.latents_std, vae.config.scaling_factor
        )
        if not mean.isfinite().all():
            raise InputError(
                "the VAE gives latents that aren't finite",
                got=f"clips of {shape[2]}x{shape[1]}x{shape[0]} in {vae.dtype}",
                fix="use --dtype float32 or bfloat16",
            )
        channels = 1 if vae.config.get("shared_log_variance", True) else None
        deviation = posterior.std[:, :channels].float()
        for index, key in enumerate(waiting):
            entry = {"mean": mean[index].to(self.dtype), "deviation": deviation[index]}
            self.writer.put(key, {name: tensor.cpu() for name, tensor in entry.items()})
        self.encoded += len(waiting)


def _read_ahead(
    planner: ClipPlanner, entries: Sequence[MediaEntry], workers: int
) -> Iterator[tuple[int, PreparedClip | Problem]]:
    """What the entries give, in order and with their places; a clip of each of some is read ahead in threads."""
    waiting: deque[tuple[int, Iterator[PreparedClip | Problem], Future]] = deque()
    with ThreadPoolExecutor(workers) as pool:

        def rest_of_first() -> Iterator[tuple[int, PreparedClip | Problem]]:
            place, clips, coming = waiting.popleft()
            while (clip := coming.result()) is not None:
                coming = pool.submit(next, clips, None)
                yield place, clip

        try:
            for place, entry in enumerate(entries):
                clips = planner.clips(entry)
                waiting.append((place, clips, pool.submit(next, clips, None)))
                if len(waiting) > workers + _AHEAD:
                    yield from rest_of_first()
            while waiting:
                yield from rest_of_first()
        finally:
            pool.shutdown(cancel_futures=True)


def _settings(vae: Any, clips: ClipSettings, encoding: EncodingSettings) -> dict[str, Any]:
    """What the latents are made with, as plain data."""
    return {
        "vae": {
            "fingerprint": vae_fingerprint(vae),
            "channels": vae.config.latent_channels,
            "deviation_scale": (vae.config.scaling_factor / vae.latents_std.float()).tolist(),
        },
        "encoding": {
            "dtype": str(vae.dtype).removeprefix("torch."),
            "stored_dtype": encoding.stored_dtype,
            "tiles": encoding.tiles,
        },
        "data": clips.as_json(),
        "versions": {name: metadata.version(name) for name in _VERSIONS_OF},
    }


def _name_of_run(
    entries: Sequence[MediaEntry], clips: ClipSettings, encoding: EncodingSettings, prompts: Sequence[str]
) -> str:
    """Tells apart what processes work on, which must be the same for all."""
    named = [[entry.name, entry.caption, repr(entry.part)] for entry in entries]
    return key_of(named, clips.as_json(), encoding.stored_dtype, encoding.tiles, list(prompts))
