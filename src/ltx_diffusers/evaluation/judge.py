"""The judge of moving-shapes: reads shape, colour, background and motion back from the pixels of a clip.

It knows the world's palette and what its shapes look like, but not where, how large or how fast a shape was drawn:
everything is measured from the frames, so that a generated clip and a true one are read in the same way. What can't
be read with confidence is None, and None is never right.

The steps, for a clip with one object on a plain background:
    1. the background is the median of the border pixels;
    2. the object's colour is the median of the pixels that differ most from the background;
    3. each pixel's cover is its place on the line from the background to the object's colour, which is blind to
       blur and anti-aliasing: the cover 0.5 is where the edge was;
    4. each frame's mask is resampled around its centroid to a grid that makes the area 1, and compared with the
       templates by intersection over union;
    5. the centroid's trend over the frames tells a move, the area's trend tells growth.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..data.moving_shapes import BACKGROUNDS, COLORS, SHAPES, ClipSpec, signed_distance
from ..errors import InputError

_PALETTE_REACH = 0.25  # an RGB distance beyond which a colour is none of the palette's
_MIN_CONTRAST = 0.15  # RGB distance between object and background below which there is no object
_MIN_AREA = 0.002  # share of the frame that an object covers at least
_MAX_AREA = 0.6
_MIN_PRESENCE = 0.8  # share of the frames in which the object has to be seen
_MIN_IOU = 0.7  # a mask that overlaps less with the best template is no known shape
_MOVED = 0.12  # a move is a trend of at least this share of the frame's side over the clip
_GREW = float(np.log(1.25))  # growth is a trend of at least this log-ratio of radii over the clip
_STRAIGHT = 0.5  # a move's drift across its direction stays below this share of the move
_GRID = 40  # side of the canonical grid on which masks and templates are compared
_REACH = 1.4  # half side of that grid, in units of the square root of the object's area
_WORKING_SIDE = 128  # larger frames are averaged down to about this shorter side, in pixels


@dataclass(frozen=True)
class Reading:
    """What the judge saw in a clip; a name is None where it can't be told.

    Attributes:
        shape, color, background, motion: Names from the tables of `moving_shapes`.
        shape_scores: Mean intersection over union with each shape's template, in [0, 1].
        color_distance: RGB distance of the object's colour from the palette entry `color`, or the nearest one.
        background_distance: The same for the background.
        presence: Share of the frames in which an object was seen.
        area: Share of the frame that the object covers, its median over the frames.
        track: Centroid (x, y) per frame (F, 2) as shares of the frame's width and height; NaN where nothing was seen.
        displacement: Trend of the track (x, y) over the whole clip, in the same unit.
        growth: Trend of the radius over the whole clip, as log of the ratio of last to first.
    """

    shape: str | None = None
    color: str | None = None
    background: str | None = None
    motion: str | None = None
    shape_scores: dict[str, float] = field(default_factory=dict)
    color_distance: float | None = None
    background_distance: float | None = None
    presence: float = 0.0
    area: float = 0.0
    track: np.ndarray | None = None
    displacement: tuple[float, float] = (0.0, 0.0)
    growth: float = 0.0

    def right(self, spec: ClipSpec) -> dict[str, bool]:
        """Which of the properties are those of a clip's description.

        Returns:
            Truth of "shape", "color", "motion", "background", and of "all": shape, colour and motion together
            (a caption may leave the background out).
        """
        names = ("shape", "color", "motion", "background")
        verdict = {name: getattr(self, name) == getattr(spec, name) for name in names}
        return {**verdict, "all": verdict["shape"] and verdict["color"] and verdict["motion"]}


class ShapesJudge:
    """Reads moving-shapes clips; see the module's text for the method.

    Example:
        >>> reading = ShapesJudge().read(frames)
        >>> reading.shape, reading.color, reading.motion
        ('circle', 'red', 'left')
    """

    def __init__(self) -> None:
        self._templates = np.stack([_template(shape) for shape in SHAPES])

    def read(self, frames: np.ndarray) -> Reading:
        """Read a clip.

        Args:
            frames: (F, H, W, 3) of sRGB, uint8 or floats in [0, 1].

        Returns:
            The reading. A clip without a clear object on a plain background, or with values that aren't
            finite, has None for what can't be read.

        Raises:
            InputError: If the array isn't (F, H, W, 3) with at least one frame, or its floats leave [0, 1].
        """
        frames = _as_floats(frames)
        if not np.isfinite(frames).all():
            return Reading()
        _check_range(frames)
        frames = _smooth(_shrink(frames))

        ground = _border_median(frames)
        background, background_distance = _nearest(ground, BACKGROUNDS)
        contrast = frames - ground
        ink = _object_contrast(contrast)
        if ink is None:
            return Reading(background=background, background_distance=background_distance)
        color, color_distance = _nearest(ground + ink, COLORS)

        cover = np.clip(contrast @ (ink / (ink @ ink)), 0, 1)
        mask = cover > 0.5
        area = mask.mean(axis=(1, 2))
        seen = (area >= _MIN_AREA) & (area <= _MAX_AREA)
        known = {
            "background": background,
            "background_distance": background_distance,
            "color_distance": color_distance,
            "presence": float(seen.mean()),
        }
        if seen.mean() < _MIN_PRESENCE:
            return Reading(**known)

        track = _centroids(mask, seen)
        scores = self._shape_scores(mask[seen], track[seen], area[seen])
        shape = max(scores, key=scores.__getitem__)
        height, width = mask.shape[1:]
        displacement, growth, motion = _motion(
            track / (width, height), 0.5 * np.log(np.where(seen, area, np.nan))
        )
        return Reading(
            shape=shape if scores[shape] >= _MIN_IOU else None,
            color=color,
            motion=motion,
            shape_scores=scores,
            area=float(np.median(area[seen])),
            track=track / (width, height),
            displacement=displacement,
            growth=growth,
            **known,
        )

    def _shape_scores(self, mask: np.ndarray, track: np.ndarray, area: np.ndarray) -> dict[str, float]:
        """Mean IoU of the masks (F, H, W) with each template; large masks count more, being drawn more finely."""
        side = np.sqrt(area * mask[0].size)
        canonical = _resample(mask, track, side)[:, None]
        overlap = np.minimum(canonical, self._templates).sum(axis=(2, 3))
        union = np.maximum(canonical, self._templates).sum(axis=(2, 3))
        return dict(zip(SHAPES, np.average(overlap / union, axis=0, weights=area).tolist(), strict=True))


def _as_floats(frames: np.ndarray) -> np.ndarray:
    """A clip (F, H, W, 3) as float32, bytes brought to [0, 1]."""
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError("a clip to judge has the wrong shape", got=frames.shape, expected="(F, H, W, 3)")
    return frames.astype(np.float32) / (255 if frames.dtype == np.uint8 else 1)


def _check_range(frames: np.ndarray) -> None:
    low, high = float(frames.min()), float(frames.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise InputError(
            "a clip to judge leaves the range of colours", got=f"{low:g} to {high:g}", expected="0 to 1"
        )


def _shrink(frames: np.ndarray) -> np.ndarray:
    """Average blocks of pixels so that the shorter side is about `_WORKING_SIDE`; small frames stay."""
    count, height, width, _ = frames.shape
    factor = max(1, min(height, width) // _WORKING_SIDE)
    if factor == 1:
        return frames
    height, width = height // factor * factor, width // factor * factor
    blocks = frames[:, :height, :width].reshape(count, height // factor, factor, width // factor, factor, 3)
    return blocks.mean(axis=(2, 4))


def _smooth(frames: np.ndarray) -> np.ndarray:
    """A 3x3 binomial blur with repeated edges, against noise. It leaves straight edges in their place."""
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16


def _border_median(frames: np.ndarray) -> np.ndarray:
    """Median colour (3,) of the outermost pixels of all frames."""
    sides = (frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1])
    return np.median(np.concatenate([side.reshape(-1, 3) for side in sides]), axis=0)


def _object_contrast(contrast: np.ndarray) -> np.ndarray | None:
    """Typical difference (3,) of the object's colour from the background, or None where nothing stands out.

    The object is what differs at least three quarters as much as a frame's strongest pixels do (as many as the
    smallest object has), which leaves out its blurred rim.
    """
    strength = np.sqrt(np.einsum("fhwc,fhwc->fhw", contrast, contrast))
    pixels = strength[0].size
    rank = max(1, round(_MIN_AREA * pixels))
    # A full sort: numpy's selection is many times slower on clips with few different values.
    peaks = np.sort(strength.reshape(len(strength), -1), axis=1)[:, -rank]
    peak = float(np.quantile(peaks, 0.75))  # of a frame that shows the object, though up to 3 in 4 may not
    if peak < _MIN_CONTRAST:
        return None
    ink = np.median(contrast[strength > 0.75 * peak], axis=0)
    return ink if np.linalg.norm(ink) >= _MIN_CONTRAST else None


def _nearest(value: np.ndarray, table: dict[str, tuple[float, float, float]]) -> tuple[str | None, float]:
    """Name of the nearest entry of a palette, None if it is out of reach, and its distance."""
    distances = {name: float(np.linalg.norm(value - np.asarray(entry))) for name, entry in table.items()}
    name = min(distances, key=distances.__getitem__)
    return (name if distances[name] <= _PALETTE_REACH else None), distances[name]


def _centroids(mask: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Centroid (x, y) in pixels of each mask (F, H, W); NaN in frames that aren't seen."""
    count = np.where(seen, mask.sum(axis=(1, 2)), np.nan)
    x = (mask.sum(axis=1) * (np.arange(mask.shape[2]) + 0.5)).sum(axis=1) / count
    y = (mask.sum(axis=2) * (np.arange(mask.shape[1]) + 0.5)).sum(axis=1) / count
    return np.stack([x, y], axis=1)


def _resample(mask: np.ndarray, track: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Sample each mask (F, H, W) on the canonical grid (F, G, G): centred, in units of its area's square root."""
    offset = _grid_axis()[None] * side[:, None]  # (F, G)
    x = np.floor(track[:, :1] + offset).astype(np.int64)
    y = np.floor(track[:, 1:] + offset).astype(np.int64)
    inside_x, inside_y = (x >= 0) & (x < mask.shape[2]), (y >= 0) & (y < mask.shape[1])
    index = np.arange(len(mask))[:, None, None]
    sampled = mask[index, np.where(inside_y, y, 0)[:, :, None], np.where(inside_x, x, 0)[:, None, :]]
    return sampled & inside_y[:, :, None] & inside_x[:, None, :]


def _grid_axis() -> np.ndarray:
    return ((np.arange(_GRID) + 0.5) / _GRID * 2 - 1) * _REACH


def _template(shape: str) -> np.ndarray:
    """The mask (G, G) of a shape of area 1 around its centroid, measured on a fine drawing of it."""
    fine = (np.arange(512) + 0.5) / 256 - 1
    inside = signed_distance(shape, fine[None, :], fine[:, None], np.float64(1.0)) < 0
    center_x = inside.sum(axis=0) @ fine / inside.sum()
    center_y = inside.sum(axis=1) @ fine / inside.sum()
    axis = _grid_axis() * np.sqrt(inside.mean() * 4)  # the drawing covers an area of 2 x 2
    return signed_distance(shape, axis[None, :] + center_x, axis[:, None] + center_y, np.float64(1.0)) < 0


def _motion(track: np.ndarray, log_radius: np.ndarray) -> tuple[tuple[float, float], float, str | None]:
    """What the object does over a clip.

    Args:
        track: (F, 2) centroid as shares of the frame's sides; NaN where nothing was seen.
        log_radius: (F,) log of the radius, in any unit; NaN where nothing was seen.

    Returns:
        Displacement (x, y), growth, and the motion's name: None for one frame, and for what is none of the world's
        motions (slantwise otherwise than down and right, moving and growing at once, there and back).
    """
    paths = np.column_stack([track, log_radius])
    seen = np.isfinite(paths).all(axis=1)
    if seen.sum() < 2:
        return (0.0, 0.0), 0.0, None
    time = np.linspace(0, 1, len(paths))[seen]
    paths = paths[seen]
    centered = time - time.mean()
    trend = centered @ paths / (centered @ centered)
    thresholds = np.array([_MOVED, _MOVED, _GREW])
    x, y, growth = trend.tolist()

    moved = max(abs(x), abs(y)) >= _MOVED
    grown = abs(growth) >= _GREW
    motion = None
    straight = min(abs(x), abs(y)) < _STRAIGHT * max(abs(x), abs(y))
    if moved and not grown and straight:
        motion = _name(x, "right", "left") if abs(x) > abs(y) else _name(y, "down", "up")
    elif moved and not grown and min(x, y) > 0:
        motion = "diagonal"
    elif grown and not moved:
        motion = _name(growth, "grow", "shrink")
    elif not moved and not grown and (np.ptp(paths, axis=0) < 1.5 * thresholds).all():
        motion = "still"
    return (x, y), growth, motion


def _name(value: float, positive: str, negative: str) -> str:
    return positive if value > 0 else negative
