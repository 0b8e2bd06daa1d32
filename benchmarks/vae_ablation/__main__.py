"""Which objectives of a video VAE do what: trained side by side at a small scale, with several seeds.

From the repository's root, one command a question (results so far are kept, so the commands share their runs):

    python -m benchmarks.vae_ablation losses
    python -m benchmarks.vae_ablation log-variance
    python -m benchmarks.vae_ablation denoising-decoder
    python -m benchmarks.vae_ablation ssvae

Each trains what isn't trained yet and measures it; `all` does everything.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .arms import ARMS, GROUPS, WORLDS
from .runs import train_and_measure


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=[*GROUPS, "all"])
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=WORLDS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/vae-ablation"))
    parser.add_argument("--threads", type=int, default=1, help="one is often faster than all at this size")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    arms = tuple(ARMS) if options.question == "all" else GROUPS[options.question]
    train_and_measure(options.output, options.worlds, arms, range(options.seeds), options.set)


if __name__ == "__main__":
    main()
