"""moving-shapes: an endless, seeded world of captioned clips with one moving shape.

Every clip is drawn from a `ClipSpec`, which names what the caption says (shape, colour, size, background, motion)
and holds the continuous draws (place, radius, distance). Shapes are drawn from signed distances with an
anti-aliased edge. Some combinations of shape, colour and motion are never trained on (`split="held-out"`): a model that
draws them right has composed them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from ..errors import InputError
from .texture import Texture

Split = Literal["train", "held-out"]

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.20, 0.90),
    "yellow": (0.95, 0.90, 0.10),
    "orange": (0.98, 0.55, 0.05),
    "purple": (0.50, 0.10, 0.65),
    "pink": (1.00, 0.55, 0.75),
    "cyan": (0.10, 0.80, 0.85),
}
BACKGROUNDS = {"black": (0.02, 0.02, 0.02), "white": (0.98, 0.98, 0.98), "gray": (0.45, 0.45, 0.45)}
# Range of the circumscribed radius, as a share of the frame's shorter side.
SIZES = {"small": (0.18, 0.22), "large": (0.28, 0.34)}
MOTIONS = ("left", "right", "up", "down", "still", "grow", "shrink")
NEW_MOTIONS = ("diagonal",)
"""Motions that are drawn only where they are asked for: what the embedded model can still be taught."""

_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "diagonal": (1, 1)}
_TRAVEL = (0.25, 0.40)  # range of the distance moved over a clip, as a share of the frame's side
_EDGE = 1 / 32  # width of the anti-aliased edge, as a share of the frame's shorter side
_LINE = 1 / 32  # width of an outline, as a share of the frame's shorter side
_GROWTH = 0.5  # the smaller end's share of the radius when a shape grows or shrinks

_SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "cross": ("cross", "plus sign"),
}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_BACKGROUND_WORDS = {"black": ("black",), "white": ("white",), "gray": ("gray", "grey")}
_MOTION_WORDS = {
    **{
        side: (f"moving {side}", f"moving to the {side}", f"sliding {side}", f"that goes to the {side}")
        for side in ("left", "right")
    },
    "up": ("moving up", "moving upwards", "rising", "that goes up"),
    "down": ("moving down", "moving downwards", "falling", "that goes down"),
    "still": ("standing still", "staying still", "that does not move", "at rest"),
    "grow": ("growing", "getting bigger", "that grows", "getting larger"),
    "shrink": ("shrinking", "getting smaller", "that shrinks"),
}
_NEW_MOTION_WORDS = {"diagonal": ("moving diagonally", "sliding diagonally", "that goes diagonally")}


@dataclass(frozen=True)
class ClipSpec:
    """What one clip shows.

    Attributes:
        shape, color, size, background, motion: Names from `SHAPES`, `COLORS`, `SIZES`, `BACKGROUNDS`, `MOTIONS`.
        radius: Largest radius of the circumscribed circle, as a share of the frame's shorter side.
        start: Centre (x, y) in the first frame, each in [0, 1] of the frame's width and height.
        travel: Distance moved over the clip, as a share of the side that it moves along (diagonally: of both); 0
            unless it moves.
    """

    shape: str
    color: str
    size: str
    background: str
    motion: str
    radius: float
    start: tuple[float, float]
    travel: float


def split_of(shape: str, color: str, motion: str) -> Split:
    """The split that a combination belongs to: fixed for good.

    One in eight is held out: for each shape and motion exactly one colour, spread evenly over the colours.
    """
    place = 2 * SHAPES.index(shape) + list(COLORS).index(color) + 3 * (MOTIONS + NEW_MOTIONS).index(motion)
    return "held-out" if place % len(COLORS) == 0 else "train"


def combinations(split: Split, motions: Sequence[str] = MOTIONS) -> list[tuple[str, str, str]]:
    """All (shape, colour, motion) of a split.

    Args:
        split: "train" or "held-out".
        motions: Those that count.

    Raises:
        InputError: If the split has another name, or there is no such motion.
    """
    if split not in ("train", "held-out"):
        raise InputError("unknown split of moving-shapes", got=repr(split), expected="'train' or 'held-out'")
    unknown = [motion for motion in motions if motion not in MOTIONS + NEW_MOTIONS]
    if unknown or not motions:
        raise InputError(
            "unknown motion of moving-shapes",
            got=", ".join(unknown) or "none",
            expected=f"some of {', '.join(MOTIONS + NEW_MOTIONS)}",
        )
    every = ((shape, color, motion) for shape in SHAPES for color in COLORS for motion in motions)
    return [combination for combination in every if split_of(*combination) == split]


_combinations = lru_cache(combinations)  # every clip asks


def sample_spec(
    rng: np.random.Generator,
    split: Split = "train",
    shape_weights: Mapping[str, float] | None = None,
    motions: tuple[str, ...] = MOTIONS,
) -> ClipSpec:
    """Draw a clip of a split: its combination, then size, background, radius and path.

    The whole shape stays inside the frame in every frame.

    Args:
        rng: Source of the draws.
        split: "train" or "held-out".
        shape_weights: How often shapes are drawn compared with those that aren't named, which have 1; None: all
            combinations equally often.
        motions: Those that are drawn.

    Raises:
        InputError: As `combinations`.
    """
    every = _combinations(split, motions)
    if shape_weights is None:
        shape, color, motion = every[rng.integers(len(every))]
    else:
        weights = np.array([shape_weights.get(shape, 1.0) for shape, _, _ in every])
        shape, color, motion = every[rng.choice(len(every), p=weights / weights.sum())]
    size = list(SIZES)[rng.integers(len(SIZES))]
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    radius = float(rng.uniform(*SIZES[size]))
    center = rng.uniform(radius, 1 - radius, size=2)
    direction = np.array(_DIRECTIONS.get(motion, (0, 0)))
    travel = 0.0
    if direction.any():
        travel = float(rng.uniform(_TRAVEL[0], min(_TRAVEL[1], 1 - 2 * radius)))
        for axis in np.flatnonzero(direction):
            low = float(rng.uniform(radius, 1 - radius - travel))
            center[axis] = low if direction[axis] > 0 else low + travel
    return ClipSpec(
        shape, color, size, background, motion, radius, (float(center[0]), float(center[1])), travel
    )


def moment(spec: ClipSpec, progress: float) -> ClipSpec:
    """A clip's look at one moment (0 = first frame, 1 = last) as a clip that stands still."""
    direction = _DIRECTIONS.get(spec.motion, (0, 0))
    start = (
        spec.start[0] + direction[0] * spec.travel * progress,
        spec.start[1] + direction[1] * spec.travel * progress,
    )
    radius = spec.radius * float(_scale(spec.motion, progress))
    return replace(spec, motion="still", radius=radius, start=start, travel=0.0)


def _scale(motion: str, progress: np.ndarray | float) -> np.ndarray | float:
    """Share of the full radius at each moment."""
    if motion == "grow":
        return _GROWTH + (1 - _GROWTH) * progress
    if motion == "shrink":
        return 1 - (1 - _GROWTH) * progress
    return 1 + 0 * progress


def render(
    spec: ClipSpec, num_frames: int, height: int, width: int, textures: tuple[Texture, Texture] | None = None
) -> np.ndarray:
    """Draw a clip.

    Args:
        spec: What it shows.
        num_frames, height, width: Its size in frames and pixels.
        textures: Patterns of the background and of the shape; the shape's moves and grows with it. None for plain
            colours.

    Returns:
        float32 array (F, H, W, 3) of sRGB values in [0, 1].

    Raises:
        InputError: If there is no such shape.
    """
    x, y, scale = _from_center(spec, num_frames, height, width)
    distance = signed_distance(spec.shape, x, y, spec.radius * min(height, width) * scale)
    edge = max(1.0, _EDGE * min(height, width))
    cover = np.clip(0.5 - distance / edge, 0, 1)[..., None]
    foreground = np.asarray(COLORS[spec.color], np.float32)
    background = np.asarray(BACKGROUNDS[spec.background], np.float32)
    if textures is not None:
        side = np.float32(min(height, width))
        ground_pattern, shape_pattern = textures
        columns, rows = np.arange(width, dtype=np.float32) / side, np.arange(height, dtype=np.float32) / side
        background = background + ground_pattern(*np.broadcast_arrays(columns[None, :], rows[:, None]))
        grown = side * scale
        foreground = foreground + shape_pattern(*np.broadcast_arrays(x / grown, y / grown))
    return np.clip(background + (foreground - background) * cover, 0, 1).astype(np.float32)


def render_outline(spec: ClipSpec, num_frames: int, height: int, width: int) -> np.ndarray:
    """Draw only where a clip's shape ends: a thin white line on black, at the same places.

    It tells shape, size and path, but neither colour nor background: a reference to train an in-context LoRA on.

    Args:
        spec: The clip.
        num_frames, height, width: Its size in frames and pixels.

    Returns:
        float32 array (F, H, W, 3) in [0, 1].

    Raises:
        InputError: If there is no such shape.
    """
    x, y, scale = _from_center(spec, num_frames, height, width)
    distance = signed_distance(spec.shape, x, y, spec.radius * min(height, width) * scale)
    line = max(1.5, _LINE * min(height, width))
    cover = np.clip(0.5 + line / 2 - np.abs(distance), 0, 1).astype(np.float32)
    return np.repeat(cover[..., None], 3, axis=3)


def _from_center(
    spec: ClipSpec, num_frames: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pixel's place in pixels from the shape's centre, x (F, 1, W) and y (F, H, 1), and the radius' share."""
    progress = np.linspace(0, 1, num_frames, dtype=np.float32) if num_frames > 1 else np.zeros(1, np.float32)
    direction = _DIRECTIONS.get(spec.motion, (0, 0))
    center_x = (spec.start[0] + direction[0] * spec.travel * progress) * width
    center_y = (spec.start[1] + direction[1] * spec.travel * progress) * height
    x = np.arange(width, dtype=np.float32)[None, None, :] + 0.5 - center_x[:, None, None]
    y = np.arange(height, dtype=np.float32)[None, :, None] + 0.5 - center_y[:, None, None]
    return x, y, _scale(spec.motion, progress)[:, None, None]


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance in pixels (negative inside) to a shape centred at the origin, y pointing down.

    The shape's corners lie on a circle of the given radius; away from edges the value is a lower bound
    of the distance, which is all that anti-aliasing needs.

    Raises:
        InputError: If there is no such shape.
    """
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * np.float32(np.sqrt(0.5))
    if shape == "triangle":  # equilateral, pointing up
        slanted = np.float32(np.sqrt(0.75)) * np.abs(x) - 0.5 * y
        return np.maximum(slanted, y) - radius * 0.5
    if shape == "cross":  # arms a third of the whole wide; corners of the arms on the circle
        long, short = radius * np.float32(3 / np.sqrt(10)), radius * np.float32(1 / np.sqrt(10))
        bar = np.maximum(np.abs(x) - long, np.abs(y) - short)
        post = np.maximum(np.abs(x) - short, np.abs(y) - long)
        return np.minimum(bar, post)
    raise InputError(
        "unknown shape of moving-shapes", got=repr(shape), expected=f"one of {', '.join(SHAPES)}"
    )


def caption(spec: ClipSpec, rng: np.random.Generator | None = None) -> str:
    """Describe a clip. Without a generator the plain full caption, with one a random wording.

    A random wording may leave out the size (half of the time) and the background (three times in ten).
    """

    def word(words: tuple[str, ...]) -> str:
        return words[0] if rng is None else words[rng.integers(len(words))]

    size = word(_SIZE_WORDS[spec.size]) + " " if rng is None or rng.random() < 0.5 else ""
    subject = f"a {size}{spec.color} {word(_SHAPE_WORDS[spec.shape])}"
    if not size and spec.color[0] in "aeiou":
        subject = "an" + subject[1:]
    motion = word((_MOTION_WORDS | _NEW_MOTION_WORDS)[spec.motion])
    if rng is not None and rng.random() < 0.3:
        return f"{subject} {motion}"
    ground = word(_BACKGROUND_WORDS[spec.background])
    if rng is not None and rng.random() < 0.25:
        return f"on a {ground} background, {subject} {motion}"
    return f"{subject} {motion} on a {ground} background"


def vocabulary() -> list[str]:
    """Every word that `caption` can use, sorted: what a tokenizer for this world has to know.

    Words of `NEW_MOTIONS` aren't among them.
    """
    groups = (_SHAPE_WORDS, _SIZE_WORDS, _BACKGROUND_WORDS, _MOTION_WORDS)
    phrases = [phrase for group in groups for words in group.values() for phrase in words]
    return sorted({word for phrase in [*phrases, *COLORS, "a an on background ,"] for word in phrase.split()})
