"""How a long video is cut into overlapping windows in time, and which prompt each of them follows.

Everything is counted in latent frames of the whole video: latent frame 0 stands for frame 0, latent frame k > 0 for
the frames 8k - 7 to 8k. A window is a video of its own to the model, so its first latent frame stands for a single
frame, too: 8 * start of the whole. All its other latent frames are those of the whole video, and can be carried over
from the window before without decoding them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from ..errors import InputError

DEFAULT_OVERLAP = 3
"""Latent frames that a window is given besides its first; 25 frames in all, about ComfyUI's 24."""


@dataclass(frozen=True)
class Window:
    """A piece of a long video that is denoised at once.

    Attributes:
        start: Its first latent frame.
        given: The last latent frame that the windows before it have made; -1 in the first window.
        end: Its last latent frame.
        prompt: Number of the prompt that it follows.
    """

    start: int
    given: int
    end: int
    prompt: int = 0

    @property
    def num_latents(self) -> int:
        """Latent frames of the window."""
        return self.end - self.start + 1

    def frames(self, ratio: int) -> tuple[int, int]:
        """First and last frame of the whole video that it shows, at `ratio` frames for a latent."""
        return ratio * self.start, ratio * self.end


def plan_windows(last: int, size: int, overlap: int, changes: Sequence[int] = ()) -> list[Window]:
    """Cut a video into windows.

    No window follows two prompts: one ends where the next prompt begins. Within the span of a prompt the windows make
    equally many new latent frames (give or take one), and all begin as far back as their size allows, so that what
    they are given is never less than the overlap, and more where the video isn't a multiple.

    Args:
        last: The video's last latent frame.
        size: Latent frames of a window after its first.
        overlap: Latent frames that a window is given at least, besides its first.
        changes: Last latent frame of each prompt but the last one, rising.

    Raises:
        InputError: If the overlap leaves nothing to make, or the changes don't rise within the video.
    """
    if not 0 <= overlap < size:
        raise InputError(
            "the windows must overlap by less than their size",
            got=f"{overlap} of {size} latent frames",
            expected=f"0 to {size - 1}",
        )
    ends = [*changes, last]
    if ends[0] < 0 or any(after <= before for before, after in itertools.pairwise(ends)):
        raise InputError("the prompts must change at rising times within the video", got=list(changes))
    windows = [Window(0, -1, min(size, ends[0]))]
    for prompt, span_end in enumerate(ends):
        done = windows[-1].end
        new = span_end - done
        count = -(-new // (size - overlap))
        for number in range(1, count + 1):
            end = done + new * number // count
            windows.append(Window(max(0, end - size), windows[-1].end, end, prompt))
    return windows


def prompt_spans(
    prompt: str | Sequence[tuple[float, str]], num_frames: int, frame_rate: float, ratio: int
) -> tuple[list[str], list[int]]:
    """The prompts of a long video, and where they change.

    A prompt begins with the latent frame that is nearest to its time.

    Args:
        prompt: One for the whole video, or pairs of the second at which a prompt begins and the prompt; the first
            begins at 0.
        num_frames: Frames of the whole video.
        frame_rate: Frames per second.
        ratio: Frames for a latent.

    Returns:
        The prompts, and the last latent frame of each but the last.

    Raises:
        InputError: If these aren't prompts, or their times aren't within the video, rising, and a latent frame apart.
    """
    if isinstance(prompt, str):
        return [prompt], []
    pairs = list(prompt) if isinstance(prompt, (list, tuple)) else []
    if not pairs or not all(_is_pair(pair) for pair in pairs):
        raise InputError(
            "prompt must be a text, or pairs of a time in seconds and a text",
            got=repr(prompt),
            expected='such as [(0, "a red circle"), (4.5, "a blue circle")]',
        )
    times, texts = [float(time) for time, _ in pairs], [text for _, text in pairs]
    if times[0] != 0:
        raise InputError("the first prompt must begin at 0 seconds", got=times[0])
    last = (num_frames - 1) // ratio
    changes = [round((time * frame_rate - 1) / ratio) for time in times[1:]]
    ends = [-1, *changes, last]
    for index, time in enumerate(times[1:], start=1):
        if not ends[index - 1] < ends[index] < last or ends[index] < 0:
            raise InputError(
                "a prompt can't begin there",
                got=f"{time:g} s",
                expected=f"rising times, at least {ratio} frames apart, "
                f"in a video of {num_frames / frame_rate:g} s at {frame_rate:g} frames per second",
            )
    return texts, changes


def window_sizes(
    window_frames: int, overlap_frames: int | None, num_frames: int, ratio: int
) -> tuple[int, int]:
    """Size and overlap of windows in latent frames, as `plan_windows` takes them.

    Args:
        window_frames: Frames of a window, 8k + 1.
        overlap_frames: Frames that a window is given at least, 8k + 1; None: 25, or a quarter of the window.
        num_frames: Frames of the whole video, 8k + 1.
        ratio: Frames for a latent.

    Raises:
        InputError: If a number isn't 8k + 1, or the overlap isn't smaller than the window.
    """
    numbers = {"window_frames": window_frames, "num_frames": num_frames}
    if overlap_frames is not None:
        numbers["overlap_frames"] = overlap_frames
    for name, value in numbers.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not whole or value % ratio != 1:
            raise InputError(f"{name} must be {ratio}k + 1", got=value, expected=f"1, {ratio + 1}, ...")
    size = (window_frames - 1) // ratio
    if size < 1:
        raise InputError("a window must be longer than one frame", got=window_frames)
    if overlap_frames is None:
        return size, min(DEFAULT_OVERLAP, size // 4)
    overlap = (overlap_frames - 1) // ratio
    if overlap >= size:
        raise InputError(
            "overlap_frames must be less than window_frames", got=f"{overlap_frames} of {window_frames}"
        )
    return size, overlap


def _is_pair(pair: object) -> bool:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        return False
    time, text = pair
    return (
        isinstance(time, Real) and not isinstance(time, bool) and 0 <= time < float("inf")
    ) and isinstance(text, str)
