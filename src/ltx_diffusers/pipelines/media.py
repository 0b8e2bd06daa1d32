"""Pictures and clips that a caller gives as conditions, and their checks. No model is needed here."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..denoising.conditions.clip import PREFIXES
from ..denoising.conditions.region import kept_latents
from ..errors import InputError
from ..geometry import CompressionRatios, VideoSize
from .images import pixel_frames, split_images
from .preparation import check_preparation, prepare_clip, prepare_image


@dataclass(frozen=True)
class VideoCondition:
    """A picture or a clip that is given at a frame of the video.

    Attributes:
        image: A picture: PIL, array (H, W, 3) or tensor (3, H, W), uint8 or floats in [0, 1]. It is stretched to
            the video's size, unless it has a `place` or a `fit`.
        video: A clip of 8k + 1 pictures: a list of them, or an array (F, H, W, 3); of the video's size, unless it
            has a `fit`.
        frame_index: Frame where it begins; negative numbers count from the end, -1 being the last frame (for a
            clip: ending with it). A clip inside the video begins at a multiple of 8.
        strength: How strongly it is given, 0 to 1.
        place: Left and top of the picture on the canvas, multiples of 32; only at frame 0. The outermost latents
            of a picture inside the canvas are left free, since they look different from others (official rule).
        prefix: What becomes of the first two latents of a clip inside the video; see `ClipCondition`.
        fit: How to bring it to the video's size: "crop", "pad" or "stretch"; see `preparation.prepare_image`.
        blur: Softens it: a Gaussian's deviation in pixels.
        crf: Sends it through H.264 at this constant rate factor, against videos that stand still: 29 in the
            official pipeline, which also blurs by 1.0. None for none.
    """

    image: Any = None
    video: Any = None
    frame_index: int = 0
    strength: float = 1.0
    place: tuple[int, int] | None = None
    prefix: str = "extra"
    fit: str | None = None
    blur: float = 0.0
    crf: int | None = None


@dataclass(frozen=True)
class RegionOfVideo:
    """A video of which a part is kept and the rest made anew: inpainting, outpainting, retaking a span of time.

    Attributes:
        video: Pictures of the video's size and number.
        keep: Mask of pixels (frames, height, width) or (height, width) for every frame, True where it stays.
        strength: How strongly the kept part is given, 0 to 1.
        hide: Whether the rest is painted gray before the VAE sees the video. If not, latents beside it know what was
            there and lead back to it. None: as the transformer was trained (`regions_hidden` in its config; not, for
            the released models).
    """

    video: Any
    keep: Any
    strength: float = 1.0
    hide: bool | None = None


@dataclass(frozen=True)
class ReferenceVideo:
    """A reference beside the video, for models trained with one (in-context LoRA).

    Attributes:
        video: 8k + 1 pictures; sides are multiples of 32, unless it has a `fit`.
        strength: How strongly it is given, 0 to 1.
        scale: Pixels of the target for one of the reference.
        fit: How to bring it to the video's size divided by `scale`: "crop", "pad" or "stretch".
        blur: Softens it: a Gaussian's deviation in pixels.
        crf: Sends it through H.264 at this constant rate factor; None for none.
    """

    video: Any
    strength: float = 1.0
    scale: float = 1.0
    fit: str | None = None
    blur: float = 0.0
    crf: int | None = None


Given = VideoCondition | RegionOfVideo | ReferenceVideo


def checked_conditions(given: Sequence[Any], size: VideoSize, ratios: CompressionRatios) -> list[Given]:
    """The conditions of one video, checked against its size and in an order of their own.

    The order doesn't depend on the caller's, so that with the same seed every permutation gives the same video.

    Args:
        given: Ours, or Diffusers' `LTXVideoCondition`.
        size: Frames, height and width of the video, in pixels.
        ratios: Compression of the VAE.

    Raises:
        InputError: If one can't be used, or two of full strength contradict each other.
    """
    checked = [_checked(entry, size, ratios) for entry in given]
    checked = _in_own_order(checked)
    _check_contradictions(checked, size)
    return [replace(entry, strength=0.0) if _gives_nothing(entry, ratios) else entry for entry in checked]


def structure(given: Sequence[Given]) -> tuple:
    """What must agree between videos for them to be one batch: kinds, places and sizes, and whether they count."""
    return tuple(
        (type(entry).__name__, *_position(entry), *_clip_size(entry), entry.strength > 0) for entry in given
    )


def clip_pictures(video: Any, size: VideoSize | None = None) -> list[Any]:
    """The pictures of a clip, checked.

    Args:
        video: A list of pictures, or an array (F, H, W, 3).
        size: What their height and width must be; None for any, as long as it is one.

    Raises:
        InputError: If it isn't a clip, or has another size.
    """
    pictures = split_images(video)
    sides = {sides_of(picture) for picture in pictures}
    if len(sides) > 1 or (size is not None and sides != {(size.height, size.width)}):
        raise InputError(
            "a clip's pictures must have the size of the video",
            got=", ".join(f"{width}x{height}" for height, width in sorted(sides)),
            expected="one size" if size is None else f"{size.width}x{size.height}",
            fix="resize or crop the clip first",
        )
    return pictures


def video_pixels(video: Any) -> Tensor:
    """A clip as (3, F, H, W) in [-1, 1].

    Raises:
        InputError: If it isn't a clip of one size.
    """
    pictures = clip_pictures(video)
    return pixel_frames(pictures, *sides_of(pictures[0]))[:, :, 0].transpose(0, 1)


def prepared_pixels(entry: VideoCondition | ReferenceVideo, size: VideoSize) -> Tensor:
    """What a checked condition shows, (3, F, H, W) in [-1, 1], brought to its size and prepared as it asks.

    Args:
        entry: A picture or a clip.
        size: Frames, height and width of the video, in pixels.
    """
    is_picture = getattr(entry, "image", None) is not None
    media = entry.image if is_picture else entry.video
    height, width = _shown_sides(entry, size)
    if entry.fit is None and not entry.blur and not entry.crf:
        return pixel_frames(media, height, width)[:, :, 0].transpose(0, 1)
    prepare = prepare_image if is_picture else prepare_clip
    prepared = prepare(media, height, width, fit=entry.fit or "stretch", blur=entry.blur, crf=entry.crf)
    return video_pixels(prepared[None] if is_picture else prepared)


def _checked(entry: Any, size: VideoSize, ratios: CompressionRatios) -> Given:
    if isinstance(entry, RegionOfVideo):
        return _checked_region(entry, size)
    if isinstance(entry, ReferenceVideo):
        return _checked_reference(entry, size, ratios)
    if not isinstance(entry, VideoCondition):
        names = ("image", "video", "frame_index", "strength")
        if not all(hasattr(entry, name) for name in names):
            raise InputError(
                "a condition is a VideoCondition, RegionOfVideo or ReferenceVideo", got=type(entry).__name__
            )
        entry = VideoCondition(**{name: getattr(entry, name) for name in names})
    return _checked_media(entry, size, ratios)


def _checked_media(entry: VideoCondition, size: VideoSize, ratios: CompressionRatios) -> VideoCondition:
    if (entry.image is None) == (entry.video is None):
        raise InputError(
            "a condition needs a picture or a clip",
            got="neither" if entry.image is None else "both",
            expected="image or video",
        )
    _check_strength(entry.strength)
    if entry.prefix not in PREFIXES:
        raise InputError("unknown prefix of a clip", got=repr(entry.prefix), expected=f"one of {PREFIXES}")
    frames = 1
    if entry.video is not None:
        frames = len(split_images(entry.video))
        _check_clip_length(frames, ratios)
    elif len(split_images(entry.image)) != 1:
        raise InputError(
            "a condition has one picture", got=len(split_images(entry.image)), fix="give a list of conditions"
        )
    index = entry.frame_index
    if not isinstance(index, Integral) or isinstance(index, bool):
        raise InputError("a condition's frame_index must be a whole number", got=repr(index))
    index = int(size.frames - frames + 1 + index if index < 0 else index)
    if not 0 <= index <= size.frames - frames:
        raise InputError(
            f"a {'picture' if frames == 1 else f'clip of {frames} frames'} doesn't fit there",
            got=f"frame_index={entry.frame_index}",
            expected=f"0 to {size.frames - frames} in a video of {size.frames} frames"
            if frames <= size.frames
            else f"at most the {size.frames} frames of the video",
        )
    if frames > 1 and index % ratios.time:
        raise InputError(
            "a clip begins at a multiple of the VAE's frames per latent",
            got=f"frame_index={index}",
            expected=f"a multiple of {ratios.time}",
        )
    entry = replace(entry, frame_index=index)
    check_preparation(entry.fit, entry.blur, entry.crf)
    if entry.place is not None:
        _check_place(entry, size, ratios)
    elif entry.video is not None and entry.fit is None:
        clip_pictures(entry.video, size)
    return entry


def _checked_reference(entry: ReferenceVideo, size: VideoSize, ratios: CompressionRatios) -> ReferenceVideo:
    _check_clip_length(len(split_images(entry.video)), ratios)
    _check_strength(entry.strength)
    if not isinstance(entry.scale, (int, float)) or not 0 < entry.scale < float("inf"):
        raise InputError("a reference's scale must be a positive number", got=entry.scale)
    check_preparation(entry.fit, entry.blur, entry.crf)
    if entry.fit is None:
        clip_pictures(entry.video)
    height, width = _shown_sides(entry, size)
    if height % ratios.height or width % ratios.width or not height or not width:
        raise InputError(
            "a reference's sides must fill whole latents",
            got=f"{width}x{height}",
            expected=f"multiples of {ratios.width} and {ratios.height}",
            fix="resize it" if entry.fit is None else "use another scale",
        )
    return entry


def _checked_region(entry: RegionOfVideo, size: VideoSize) -> RegionOfVideo:
    _check_strength(entry.strength)
    frames = len(clip_pictures(entry.video, size))
    if frames != size.frames:
        raise InputError(
            "a video that is kept in part has the length of the video", got=frames, expected=size.frames
        )
    try:
        keep = torch.as_tensor(entry.keep)
    except (TypeError, ValueError, RuntimeError):
        raise InputError("a mask must be an array or a tensor", got=type(entry.keep).__name__) from None
    if keep.ndim == 2:
        keep = keep.expand(size.frames, *keep.shape)
    if tuple(keep.shape) != tuple(size):
        raise InputError(
            "the mask must have one value for each pixel",
            got=tuple(torch.as_tensor(entry.keep).shape),
            expected=f"{tuple(size)} or {tuple(size[1:])}",
        )
    return replace(entry, keep=keep.bool())


def _gives_nothing(entry: Given, ratios: CompressionRatios) -> bool:
    """Whether it is a region that keeps no whole latent: in a batch it must count, and draw, as it does alone."""
    return isinstance(entry, RegionOfVideo) and not bool(kept_latents(entry.keep[None], ratios).any())


def _check_place(entry: VideoCondition, size: VideoSize, ratios: CompressionRatios) -> None:
    if (
        not isinstance(entry.place, (tuple, list))
        or len(entry.place) != 2
        or not all(isinstance(side, Integral) for side in entry.place)
    ):
        raise InputError(
            "a picture's place must be two whole numbers", got=repr(entry.place), expected="(left, top)"
        )
    height, width = _shown_sides(entry, size)
    if entry.fit is not None:
        raise InputError(
            "a picture with a place keeps its own size", got=f"fit={entry.fit!r}", fix="drop fit"
        )
    left, top = entry.place
    aligned = not any(
        (left % ratios.width, width % ratios.width, top % ratios.height, height % ratios.height)
    )
    inside = 0 <= left <= size.width - width and 0 <= top <= size.height - height
    if entry.frame_index != 0 or not aligned or not inside:
        raise InputError(
            "a picture on the canvas lies at frame 0, inside the video and on the latents' grid",
            got=f"{width}x{height} at {entry.place}, frame {entry.frame_index}",
            expected=f"multiples of {ratios.width} within {size.width}x{size.height}",
        )
    if min(free_of_borders((height, width), entry.place, size, ratios)[1]) < 1:
        raise InputError(
            "nothing is left of this picture on the canvas without its border latents",
            got=f"{width}x{height}",
            fix="give a larger one",
        )


def _check_clip_length(frames: int, ratios: CompressionRatios) -> None:
    if frames % ratios.time != 1:
        raise InputError(
            "a clip has the wrong number of frames",
            got=frames,
            expected=f"{ratios.time}k + 1, such as {max(1, (frames - 1) // ratios.time * ratios.time + 1)}",
        )


def _check_strength(strength: Any) -> None:
    if not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
        raise InputError("a condition's strength must be a number in [0, 1]", got=strength)


def _check_contradictions(given: Sequence[Given], size: VideoSize) -> None:
    """Refuse two conditions of full strength that give the same pixels of the video."""
    full = [entry for entry in given if entry.strength == 1 and not isinstance(entry, ReferenceVideo)]
    for one, other in combinations(full, 2):
        frame = _shared_frame(one, other, size)
        if frame is not None:
            names = ("a region" if isinstance(e, RegionOfVideo) else f"frame_index={e.frame_index}"
                     for e in (one, other))  # fmt: skip
            raise InputError(
                "two conditions of full strength are given for one frame",
                got=f"frame {frame}, from {' and '.join(names)}",
                fix="move one of them, or lower its strength",
            )


def _shared_frame(one: Given, other: Given, size: VideoSize) -> int | None:
    """The first frame of which both give pixels."""
    shared = tuple(
        slice(max(begins), min(ends))
        for begins, ends in (
            zip(*axis, strict=True) for axis in zip(_box(one, size), _box(other, size), strict=True)
        )
    )
    if any(axis.start >= axis.stop for axis in shared):
        return None
    masks = [entry.keep[shared] for entry in (one, other) if isinstance(entry, RegionOfVideo)]
    if not masks:
        return shared[0].start
    in_both = torch.stack(masks).all(dim=0).flatten(1).any(dim=1).nonzero()
    return None if in_both.numel() == 0 else shared[0].start + int(in_both[0])


def _box(entry: VideoCondition | RegionOfVideo, size: VideoSize) -> list[tuple[int, int]]:
    """First and one past the last frame, row and column of the video that it may give."""
    if isinstance(entry, RegionOfVideo):
        return [(0, side) for side in size]
    frames = 1 if entry.video is None else len(split_images(entry.video))
    left, top = entry.place or (0, 0)
    starts, sides = (entry.frame_index, top, left), (frames, *_shown_sides(entry, size))
    return [(start, start + side) for start, side in zip(starts, sides, strict=True)]


def _in_own_order(given: Sequence[Given]) -> list[Given]:
    """By kind, place and strength; what agrees in these by content, which is looked at only then."""

    def key(entry: Given) -> tuple:
        return (type(entry).__name__, *_position(entry), entry.strength)

    keys = Counter(map(key, given))
    return sorted(given, key=lambda entry: (key(entry), _fingerprint(entry) if keys[key(entry)] > 1 else b""))


def _fingerprint(entry: Given) -> bytes:
    """Bytes that differ where what is shown differs."""
    shown = [getattr(entry, name, None) for name in ("image", "video")]
    pictures = [picture for media in shown if media is not None for picture in split_images(media)]
    digest = hashlib.sha256(repr([getattr(entry, name, None) for name in ("fit", "blur", "crf")]).encode())
    for picture in (*pictures, getattr(entry, "keep", ())):
        digest.update(np.asarray(picture.cpu() if isinstance(picture, Tensor) else picture).tobytes())
    return digest.digest()


def _position(entry: Given) -> tuple:
    if isinstance(entry, VideoCondition):
        return (entry.frame_index, entry.place or (), entry.video is None, entry.prefix)
    return (entry.scale,) if isinstance(entry, ReferenceVideo) else ()


def _clip_size(entry: Given) -> tuple:
    pictures = split_images(entry.image if getattr(entry, "image", None) is not None else entry.video)
    # Without a place, and where it is fitted, it gets the video's size whatever its own.
    own_size = not isinstance(entry, VideoCondition) or entry.place is not None
    if own_size and getattr(entry, "fit", None) is None:
        return (len(pictures), *sides_of(pictures[0]))
    return (len(pictures),)


def _shown_sides(entry: VideoCondition | ReferenceVideo, size: VideoSize) -> tuple[int, int]:
    """Height and width that a picture or clip is given with."""
    if isinstance(entry, VideoCondition) and entry.place is None:
        return size.height, size.width
    if isinstance(entry, ReferenceVideo) and entry.fit is not None:
        return round(size.height / entry.scale), round(size.width / entry.scale)
    return sides_of(split_images(entry.video if getattr(entry, "image", None) is None else entry.image)[0])


def sides_of(picture: Any) -> tuple[int, int]:
    """Height and width of a picture."""
    return (picture.height, picture.width) if hasattr(picture, "height") else tuple(picture.shape[1:])


def free_of_borders(
    sides: tuple[int, int], place: tuple[int, int], size: VideoSize, ratios: CompressionRatios
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """A picture's latents without those at borders inside the canvas: first row and column, how many, skipped."""
    left, top = place
    starts, counts, skipped = [], [], []
    for begin, side, whole, ratio in (
        (top, sides[0], size.height, ratios.height),
        (left, sides[1], size.width, ratios.width),
    ):
        before, after = int(begin > 0), int(begin + side < whole)
        starts.append(begin // ratio + before)
        counts.append(side // ratio - before - after)
        skipped.append(before)
    return tuple(starts), tuple(counts), tuple(skipped)
