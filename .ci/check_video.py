"""Fails unless video files hold a video, and the judge reads what is asked for from enough of them.

Usage: check_video.py FILE... [--color NAME] [--shape NAME] [--motion NAME] [--at-least N]
"""

import argparse
import sys

from ltx_diffusers.data.video import read_video
from ltx_diffusers.evaluation.judge import ShapesJudge


def main() -> None:
    """Read the files and exit with a message if they are not as they should be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    for name in ("color", "shape", "motion"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--at-least", type=int, default=1)
    options = parser.parse_args()
    readings = []
    for path in options.files:
        frames, _ = read_video(path)
        if len(frames) < 2:
            sys.exit(f"{path}: expected a video, got {len(frames)} frame")
        readings.append(ShapesJudge().read(frames))
    wanted = {name: getattr(options, name) for name in ("color", "shape", "motion") if getattr(options, name)}
    right = sum(
        all(getattr(reading, name) == value for name, value in wanted.items()) for reading in readings
    )
    sys.stdout.write(f"{right} of {len(readings)} show {wanted}\n")
    if right < options.at_least:
        sys.exit(f"expected at least {options.at_least}; the judge read {readings}")


if __name__ == "__main__":
    main()
