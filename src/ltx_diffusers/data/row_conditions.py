"""The column `conditions`: which frames a clip is given in training, as a row of a list says it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..errors import MediaError
from ..geometry import LTX_RATIOS, nearest_valid_frames
from .media_entries import is_media, is_picture

CONDITIONS_FIELD = "conditions"

_NAMES = ("frame", "frames", "file")


@dataclass(frozen=True, slots=True)
class RowCondition:
    """Frames that a clip is given in training.

    Attributes:
        frame: Frame of the clip at which they begin; negative numbers count from the end, -1 being the last.
        frames: How many; 8k + 1.
        file: A picture or video that goes with the clip's, in which they are found; None: the clip itself.
    """

    frame: int
    frames: int = 1
    file: Path | None = None

    def begin(self, num_frames: int) -> int:
        """The first of them in a clip of so many frames, from 0.

        Raises:
            MediaError: If they don't lie inside it.
        """
        begin = self.frame if self.frame >= 0 else num_frames + self.frame
        if begin < 0 or begin + self.frames > num_frames:
            raise MediaError(f"{self} isn't inside its {num_frames} frames")
        return begin

    def as_row(self, file: str | None = None) -> dict[str, Any]:
        """What a row says of it, with the name of its file there."""
        row: dict[str, Any] = {"frame": self.frame}
        if self.frames > 1:
            row["frames"] = self.frames
        return row if file is None else row | {"file": file}

    def __str__(self) -> str:
        return f"its condition of {self.frames} frame{'s' * (self.frames > 1)} from {self.frame} on"


def conditions_in(fields: Mapping[str, Any], root: Path | None = None) -> tuple[RowCondition, ...] | None:
    """What a row says of its clip's conditions.

    Args:
        fields: The row. Its conditions are a list of objects with `frame`, and maybe `frames` and `file`; one such
            object; or one of these as JSON text.
        root: What files are relative to; None where there can't be any.

    Returns:
        The conditions; () if nothing is to be given, None if the row doesn't say.

    Raises:
        ValueError: If they can't be used.
    """
    said = fields.get(CONDITIONS_FIELD)
    if isinstance(said, str):
        try:
            said = json.loads(said) if said.strip() else None
        except (ValueError, RecursionError):
            raise ValueError(f"its conditions are no JSON: {said[:100]!r}") from None
    if said is None:
        return None
    said = [said] if isinstance(said, dict) else said
    if not isinstance(said, list):
        raise ValueError(f"its conditions are no list of objects but {str(said)[:100]!r}")
    conditions = tuple(_condition(one, root) for one in said)
    # How those counted from the start lie to those from the end depends on the clip.
    for from_end in (False, True):
        _check_apart([(one.frame, one) for one in conditions if (one.frame < 0) == from_end])
    return conditions


def placed(conditions: Sequence[RowCondition], num_frames: int) -> list[tuple[int, RowCondition]]:
    """The conditions of a clip of so many frames by the first frames that they give, in order.

    A single frame is given nothing: nothing would be left to learn.

    Raises:
        MediaError: If one isn't inside the clip, two give the same frame, or one gives the whole clip.
    """
    if num_frames == 1:
        return []
    found = sorted(((one.begin(num_frames), one) for one in conditions), key=itemgetter(0))
    for _, one in found:
        if one.frames == num_frames:
            raise MediaError(f"{one} leaves nothing of its {num_frames} frames to learn")
    try:
        _check_apart(found)
    except ValueError as error:
        raise MediaError(str(error)) from None
    return found


def _condition(said: Any, root: Path | None) -> RowCondition:
    if not isinstance(said, dict):
        raise ValueError(f'its condition {str(said)[:100]!r} is no object like {{"frame": 0}}')
    # In a column of a dataset every object has all keys.
    said = {name: value for name, value in said.items() if value is not None}
    for name in said:
        if name not in _NAMES:
            near = difflib.get_close_matches(str(name), _NAMES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_NAMES)}"
            raise ValueError(f"its condition has an unknown key {str(name)[:50]!r}; {hint}")
    if "frame" not in said:
        raise ValueError(f"its condition {str(said)[:100]} doesn't say its frame")
    for name in ("frame", "frames"):
        if name in said and (not isinstance(said[name], int) or isinstance(said[name], bool)):
            raise ValueError(f"its condition's {name} is no whole number: {str(said[name])[:50]!r}")
    condition = RowCondition(said["frame"], said.get("frames", 1), _file(said, root))
    _check_frames(condition)
    return condition


def _check_frames(condition: RowCondition) -> None:
    frame, frames, ratio = condition.frame, condition.frames, LTX_RATIOS.time
    near = nearest_valid_frames(frames, ratio)
    if near != (frames,):
        raise ValueError(f"its condition's frames are {frames}; use {' or '.join(map(str, near))}")
    if frame < 0 < frame + frames:
        raise ValueError(f"{condition} reaches beyond the clip's end; frame {-frames} is its last")
    # A clip of 8k + 1 frames ends one frame after a multiple of 8.
    if frames > 1 and (frame if frame >= 0 else frame + 1) % ratio:
        below = frame - (frame + (frame < 0)) % ratio
        raise ValueError(f"{condition} begins inside a latent; use frame {below} or {below + ratio}")
    if frames > 1 and condition.file is not None and is_picture(condition.file.name):
        raise ValueError(f"{condition} is to come from a picture, which gives one frame")


def _file(said: dict[str, Any], root: Path | None) -> Path | None:
    if "file" not in said:
        return None
    name = said["file"]
    if not isinstance(name, str) or "\0" in name or not is_media(name):
        raise ValueError(
            f"its condition's file {str(name)[:100]!r} is neither a picture nor a video by its ending"
        )
    if root is None:
        raise ValueError("its condition names a file, and a tar has no place for that")
    return root / name


def _check_apart(found: Sequence[tuple[int, RowCondition]]) -> None:
    """Raise `ValueError` if two of some conditions, with their first frames, give the same frame."""
    for (begin, one), (after, other) in pairwise(sorted(found, key=itemgetter(0))):
        if after < begin + one.frames:
            raise ValueError(f"{one} and that of {other.frames} from {other.frame} on give the same frame")
