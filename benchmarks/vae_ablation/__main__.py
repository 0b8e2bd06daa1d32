"""Which objectives of a video VAE do what: trained side by side at a small scale, with several seeds.

From the repository's root, one command a question (results so far are kept, so the commands share their runs):

    python -m benchmarks.vae_ablation losses
    python -m benchmarks.vae_ablation log-variance
    python -m benchmarks.vae_ablation denoising-decoder
    python -m benchmarks.vae_ablation ssvae

Each trains what isn't trained yet and measures it; `all` does everything. Tables of all runs that are there go to
`benchmarks/results`, plots to `docs/assets/vae-ablation`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .arms import ARMS, GROUPS, WORLDS
from .report import write_report
from .runs import generate_with_each, train_and_measure


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=[*GROUPS, "all"])
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=WORLDS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/vae-ablation"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/assets/vae-ablation"))
    parser.add_argument("--threads", type=int, default=1, help="one is often faster than all at this size")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every VAE's run"
    )
    parser.add_argument("--set-transformer", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    arms = tuple(ARMS) if options.question == "all" else GROUPS[options.question]
    seeds = range(options.seeds)
    train_and_measure(options.output, options.worlds, arms, seeds, options.set)
    if options.question in ("ssvae", "all") and "shapes" in options.worlds:
        generate_with_each(options.output, GROUPS["ssvae"], seeds, options.set_transformer)
    write_report(options.output, seeds, options.results, options.pictures)


if __name__ == "__main__":
    main()
