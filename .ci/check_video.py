"""Fails unless video files hold a video, and the judge reads the prompted colour, shape and motion from enough of them.

Usage: check_video.py FILE... [--shows COLOR SHAPE MOTION [--at-least N]]
"""

import argparse
import sys

from ltx_diffusers.data.video import read_video
from ltx_diffusers.evaluation.judge import ShapesJudge


def main() -> None:
    """Read the files and exit with a message if they are not as they should be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--shows", nargs=3, metavar=("COLOR", "SHAPE", "MOTION"))
    parser.add_argument("--at-least", type=int, default=1)
    options = parser.parse_args()
    readings = []
    for path in options.files:
        frames, _ = read_video(path)
        if len(frames) < 2:
            sys.exit(f"{path}: expected a video, got {len(frames)} frame")
        reading = ShapesJudge().read(frames)
        readings.append([reading.color, reading.shape, reading.motion])
    if options.shows and readings.count(options.shows) < options.at_least:
        sys.exit(f"expected {options.shows} in at least {options.at_least} files, the judge read {readings}")
    sys.stdout.write(f"the judge read {readings}\n")


if __name__ == "__main__":
    main()
