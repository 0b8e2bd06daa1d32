"""Which clips a picture or video gives to a set of precomputed latents, and what of them has to be encoded."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Container, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ..data.beside import BRIGHT, frames_at, look_at, same_stretch, shown_part
from ..data.buckets import Shown, fitting_sizes, nearest_size, places
from ..data.clips import Problem
from ..data.cutting import Cut
from ..data.decoding import one_line
from ..data.media_entries import MediaEntry, Part, is_picture
from ..data.row_conditions import placed
from ..denoising.conditions.region import kept_latents
from ..errors import InputError, MediaError
from ..geometry import CompressionRatios, VideoSize, check_video_size
from .clip_extras import check_reference_sizes
from .fingerprints import key_of

PICTURE_RATE = 1.0
"""Frame rate of a sample of one frame that comes from a picture."""


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """What is cut out of a set.

    Attributes:
        sizes: Frames, height and width in pixels; each clip gets the one that fits it best.
        frame_rate: Frames per second of all clips; None leaves every video its own.
        clips_per_video: At most so many from each video, evenly spread and without overlap; one lies in the middle.
            None: as many as there are.
        every_size: Whether a video gives clips of every size that fits it, instead of the best.
        upscale: Whether what is smaller than all sizes is enlarged, instead of left out.
        reference_scale: How many times fewer pixels a side references have than their clips.
        caption_prefix: Put before every caption.
        pieces: First frame and number of frames of what is also encoded by itself, for keyframes and clips that are
            given in training; negative frames count from the end. Clips that one doesn't fit into go without it.

    Raises:
        InputError: If a value can't be used.
    """

    sizes: tuple[VideoSize, ...]
    frame_rate: float | None = None
    clips_per_video: int | None = 1
    every_size: bool = False
    upscale: bool = False
    reference_scale: int = 1
    caption_prefix: str = ""
    pieces: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Check the settings. Raises `InputError`."""
        if not self.sizes:
            raise InputError("clips need at least one size")
        if self.clips_per_video is not None and self.clips_per_video < 1:
            raise InputError("clips per video must be positive", got=self.clips_per_video)
        if self.reference_scale < 1:
            raise InputError("the scale of references must be 1 or more", got=self.reference_scale)
        Cut(frame_rate=self.frame_rate)

    def check_ratios(self, ratios: CompressionRatios) -> None:
        """Check that a VAE can encode every size, and references of it.

        Raises:
            InputError: If it can't; the message names near sizes.
        """
        for size in self.sizes:
            check_video_size(*size, ratios)
            check_reference_sizes([size], self.reference_scale, ratios)
            for first, frames in self.pieces:
                check_video_size(frames, size.height, size.width, ratios)
                if first == 0:
                    raise InputError("a piece can't begin at frame 0: its latents are those of the clip")
        for piece in self.pieces:
            if all(piece_begin(piece, size.frames, ratios.time) is None for size in self.sizes):
                raise InputError(
                    "a piece fits into no size, or begins inside a latent",
                    got=f"{piece[1]} frames from {piece[0]}",
                )

    def as_json(self) -> dict[str, Any]:
        """The settings as plain data."""
        lists = {"sizes": [list(size) for size in self.sizes], "pieces": [list(each) for each in self.pieces]}
        return asdict(self) | lists

    @property
    def cut(self) -> Cut:
        """How clips are cut from their files."""
        return Cut(frame_rate=self.frame_rate, upscale=self.upscale)

    def read(self, entry: MediaEntry, size: VideoSize, place: float) -> np.ndarray:
        """The frames of one of the clips of an entry, uint8 (F, H, W, 3).

        Raises:
            MediaError: If they can't be read; `OSError` if an archive is gone.
        """
        return self.cut.clip(entry.open(), entry.is_picture, size, place, part=entry.part)[0]


@dataclass(frozen=True)
class PreparedClip:
    """One sample: what will be known of it, and what must still be encoded.

    Attributes:
        record: Plain data of the sample; latents, references, conditions and the mask by their keys.
        frames: Clips to encode by their keys, uint8 (F, H, W, 3); those that are on disk already are left out.
        masks: Masks by their keys (F', H', W'), 1 = made anew.
    """

    record: dict[str, Any]
    frames: dict[str, np.ndarray] = field(default_factory=dict)
    masks: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Media:
    """A file that clips are cut from.

    Attributes:
        source: The file, or its bytes.
        is_picture: Whether it is a picture.
        digest: Of its content.
        whole: What all of it shows.
        part: The part that counts; None: all.
    """

    source: Path | IO[bytes]
    is_picture: bool
    digest: str
    whole: Shown
    part: Part | None = None

    @property
    def shown(self) -> Shown:
        """What its part shows. Raises `MediaError` if the file hasn't such a part."""
        return shown_part(self.whole, self.part)

    def read(self, size: VideoSize, place: float, cut: Cut) -> np.ndarray:
        """A clip, uint8 (F, H, W, 3). Raises `MediaError` if it can't be read."""
        if not isinstance(self.source, Path):
            self.source.seek(0)
        return cut.clip(self.source, self.is_picture, size, place, part=self.part)[0]


_Window = tuple[_Media, VideoSize, float, Cut]
"""A clip: its file, its size, where it lies, and how it is cut."""


class ClipPlanner:
    """Turns entries of a set into samples. Its methods may be called from several threads.

    Args:
        settings: What is cut out.
        ratios: Compression of the VAE.
        encoder: Words that tell encoders, and ways to encode, apart: part of every key.
        known: Keys that are on disk.
    """

    def __init__(
        self, settings: ClipSettings, ratios: CompressionRatios, encoder: str, known: Container[str] = ()
    ) -> None:
        self.settings, self.ratios, self.encoder, self.known = settings, ratios, encoder, known

    def clips(self, entry: MediaEntry) -> Iterator[PreparedClip | Problem]:
        """The samples of an entry, each read when it is asked for; a long video's would fill the memory together.

        A problem comes last: then the entry gives no sample, and what came before it doesn't count.
        """
        try:
            media = replace(_open_media(entry.open(), entry.is_picture), part=entry.part)
            shown = media.shown
            besides = {path: _open_beside(path) for path in entry.files_beside}
            for size in self._sizes(shown):
                for place in places(shown, size, self.settings.cut, self.settings.clips_per_video):
                    yield self._clip(entry, media, besides, size, place)
        except (InputError, OSError) as error:
            yield Problem(entry.name, one_line(error))
        except Exception as error:  # decoders meet damaged files with errors of any kind
            yield Problem(entry.name, f"it can't be read: {type(error).__name__}: {one_line(error)}")

    def _sizes(self, shown: Shown) -> list[VideoSize]:
        fitting = fitting_sizes(shown, self.settings.sizes, self.settings.cut)
        return fitting if self.settings.every_size else [nearest_size(shown, fitting)]

    def _clip(
        self, entry: MediaEntry, media: _Media, besides: dict[Path, _Media], size: VideoSize, place: float
    ) -> PreparedClip:
        cut = self.settings.cut
        rate = PICTURE_RATE
        if not media.is_picture:
            rate = cut.window(size.frames).rate(media.shown.frame_rate)
        record: dict[str, Any] = {
            "name": entry.name,
            "caption": self.settings.caption_prefix + entry.caption,
            "size": list(size),
            "place": place,
            "frame_rate": rate,
            "content": media.digest,
        }
        prepared = PreparedClip(record)
        record["latents"] = self._latents(prepared, media, size, place, cut)
        begins = [
            (piece_begin(piece, size.frames, self.ratios.time), piece[1]) for piece in self.settings.pieces
        ]
        whole = (media, size, place, cut)
        pieces = self._pieces(prepared, whole, [piece for piece in begins if piece[0] is not None])
        if pieces:
            record["pieces"] = {piece_name(*piece): key for piece, key in pieces.items()}
        if entry.conditions is not None:
            record["conditions"] = []
            for begin, one in placed(entry.conditions, size.frames):
                window = whole if one.file is None else _beside(besides[one.file], one.file, *whole)
                (key,) = self._pieces(prepared, window, [(begin, one.frames)]).values()
                record["conditions"].append([begin, key])
        if entry.references:
            scale = self.settings.reference_scale
            small = VideoSize(size.frames, size.height // scale, size.width // scale)
            record["references"] = [
                self._latents(prepared, *_beside(besides[path], path, media, small, place, cut))
                for path in entry.references
            ]
        if entry.mask is not None:
            window = _beside(besides[entry.mask], entry.mask, *whole)
            record["mask"] = self._mask(prepared, size, *window)
        return prepared

    def _latents(self, prepared: PreparedClip, media: _Media, size: VideoSize, place: float, cut: Cut) -> str:
        """The key of a clip's latents; its frames are read unless it is known."""
        key = _key("latents", self.encoder, media, size, place, cut)
        if key not in self.known:
            prepared.frames[key] = media.read(size, place, cut)
        return key

    def _pieces(
        self, prepared: PreparedClip, window: _Window, pieces: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], str]:
        """The keys of some frames of a clip, or of what goes with it, by their first and their number."""
        whole = _key("latents", self.encoder, *window)
        keys = {piece: key_of("piece", whole, *piece) for piece in pieces}
        missing = [piece for piece, key in keys.items() if key not in self.known]
        if missing:
            media, size, place, cut = window
            shown = prepared.frames.get(whole)
            shown = media.read(size, place, cut) if shown is None else shown
            for piece in missing:
                prepared.frames[keys[piece]] = frames_at(shown, *piece)
        return keys

    def _mask(
        self,
        prepared: PreparedClip,
        clip_size: VideoSize,
        media: _Media,
        size: VideoSize,
        place: float,
        cut: Cut,
    ) -> str:
        """The key of a mask; a latent is made anew if any pixel that it stands for is."""
        key = _key("mask", list(clip_size), media, size, place, cut)
        if key not in self.known:
            bright = media.read(size, place, cut).mean(axis=3) >= BRIGHT
            anew = torch.from_numpy(np.broadcast_to(bright, tuple(clip_size)).copy())
            prepared.masks[key] = 1 - kept_latents(~anew[None], self.ratios)[0].float()
        return key


def piece_begin(piece: tuple[int, int], num_frames: int, ratio: int) -> int | None:
    """The first frame of a piece in a clip of so many frames; None if it doesn't fit, or not at a whole latent."""
    first, frames = piece
    begin = first if first > 0 else num_frames + first
    fits = begin > 0 and begin + frames <= num_frames
    return begin if fits and (frames == 1 or begin % ratio == 0) else None


def piece_name(begin: int, frames: int) -> str:
    """How a piece is called in a sample's record."""
    return f"{begin}:{frames}"


def _key(what: str, how: Any, media: _Media, size: VideoSize, place: float, cut: Cut) -> str:
    part = None if media.part is None else asdict(media.part)
    return key_of(what, how, media.digest, part, list(size), place, cut.frame_rate)


def _open_media(source: Path | IO[bytes], picture: bool) -> _Media:
    """A file with its digest and what it shows.

    Raises:
        MediaError: If it is empty or can't be read.
    """
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if file.seek(0, io.SEEK_END) == 0:
            raise MediaError("it is empty")
        file.seek(0)
    return _Media(source, picture, digest, look_at(source, picture))


def _open_beside(path: Path) -> _Media:
    """A file that goes with a clip's. Raises `MediaError` that names it if it can't be read."""
    try:
        return _open_media(path, is_picture(path.name))
    except (InputError, OSError) as error:
        raise MediaError(f"what goes with it, {path.name}, can't be used", got=one_line(error)) from error


def _beside(beside: _Media, path: Path, media: _Media, size: VideoSize, place: float, cut: Cut) -> _Window:
    """What belongs to a clip in a file that goes with the clip's; see `data.beside.same_stretch`."""
    found = same_stretch(path.name, beside.whole, media.whole, media.part, size, place, cut)
    return replace(beside, part=found.part), found.size, found.place, found.cut
