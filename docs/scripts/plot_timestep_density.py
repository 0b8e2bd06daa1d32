"""Plot what noise levels training draws, against the token count: python docs/scripts/plot_timestep_density.py.

Writes docs/assets/timestep_density.png.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch

from ltx_diffusers.schedulers.densities import build_timestep_density

TARGET = Path(__file__).parents[1] / "assets" / "timestep_density.png"
TOKENS = (64, 1024, 4096, 6144, 16384)
PANELS = (
    ("plain logit-normal", {"clip_percentiles": None, "uniform_share": 0.0}),
    ("percentiles clipped, 10 % uniform (default)", {}),
)
DRAWS, BINS = 400_000, 160


def main() -> None:
    """Draw both panels and save the picture."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharex=True, sharey=True, layout="constrained")
    colors = plt.get_cmap("viridis")(torch.linspace(0, 0.9, len(TOKENS)).numpy())
    edges = torch.linspace(0, 1, BINS + 1)
    for axis, (title, options) in zip(axes, PANELS, strict=True):
        density = build_timestep_density("logit-normal", **options)
        for num_tokens, color in zip(TOKENS, colors, strict=True):
            generator = torch.Generator().manual_seed(0)
            sigmas = density.sample(DRAWS, num_tokens=num_tokens, generator=generator, stratified=True)
            counts = torch.histogram(sigmas, edges).hist
            # The clipped density keeps what lies above 1 just below it: 0.1 % of the draws in the last bin.
            height = counts * BINS / DRAWS
            axis.stairs(
                height.numpy(), edges.numpy(), color=color, linewidth=1.6, label=f"{num_tokens:,} tokens"
            )
        axis.set_title(title)
        axis.set_xlabel("noise level sigma")
        axis.set_ylim(0, 8)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("density")
    axes[0].legend(frameon=False, loc="upper left")
    TARGET.parent.mkdir(exist_ok=True)
    figure.savefig(TARGET, dpi=110)


if __name__ == "__main__":
    main()
