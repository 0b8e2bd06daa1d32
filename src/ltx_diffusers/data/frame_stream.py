"""The frames of a video that come piece by piece, for writing it without holding it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ..errors import InputError


class FrameStream:
    """Frames that are made while they are written: `write_video` takes it in place of an array.

    It can be gone through once.

    Args:
        pieces: uint8 arrays (frames, height, width, 3).
        num_frames: How many frames they hold together.
        height: Of every frame, in pixels.
        width: Of every frame, in pixels.

    Raises:
        InputError: If a number isn't positive.

    Example:
        >>> video = pipe.stream("a red kite", num_frames=401, height=512, width=704)
        >>> write_video("kite.mp4", FrameStream(video, 401, 512, 704), fps=25)
    """

    def __init__(self, pieces: Iterable[np.ndarray], num_frames: int, height: int, width: int) -> None:
        self.shape = (num_frames, height, width, 3)
        if min(self.shape) < 1:
            raise InputError("frames have the wrong shape", got=self.shape, expected="none of them 0")
        self._pieces = pieces

    @property
    def size(self) -> int:
        """Numbers in all frames together, as of an array."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames one by one, uint8 (height, width, 3).

        Raises:
            InputError: If a piece isn't such an array, or they hold another number of frames.
        """
        come = 0
        for piece in self._pieces:
            if (
                not isinstance(piece, np.ndarray)
                or piece.dtype != np.uint8
                or piece.shape[1:] != self.shape[1:]
            ):
                raise InputError(
                    "a piece of the video has the wrong kind or size",
                    got=f"{getattr(piece, 'dtype', type(piece).__name__)} {getattr(piece, 'shape', '')}",
                    expected=f"uint8 (frames, {', '.join(map(str, self.shape[1:]))})",
                )
            come += len(piece)
            if come <= len(self):
                yield from piece
        if come != len(self):
            raise InputError("the pieces hold another number of frames", got=come, expected=len(self))
