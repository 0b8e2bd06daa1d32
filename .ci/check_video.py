"""Fails unless the judge reads the prompted colour, shape and motion from a generated video file.

Usage: check_video.py FILE COLOR SHAPE MOTION
"""

import sys

from ltx_diffusers.data.video import read_video
from ltx_diffusers.evaluation.judge import ShapesJudge

if __name__ == "__main__":
    path, *expected = sys.argv[1:]
    frames, _ = read_video(path)
    reading = ShapesJudge().read(frames)
    if [reading.color, reading.shape, reading.motion] != expected:
        sys.exit(f"{path}: expected {expected}, the judge read {reading}")
