"""A timestep density: CosMap of Stable Diffusion 3 (arXiv 2403.03206, section 3.1)."""

from __future__ import annotations

import math

import torch

from ltx_diffusers.schedulers.densities import draw_uniform, timestep_densities


@timestep_densities.register("example-cosmap")
class CosMapDensity:
    """2 / (pi (1 - 2 sigma + 2 sigma^2)): the middle twice as often as the ends, whatever the resolution."""

    def sample(
        self,
        num_samples: int,
        *,
        num_tokens: int | torch.Tensor,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        stratified: bool = False,
    ) -> torch.Tensor:
        """Sigmas (B,) in (0, 1), float32: the inverse of the distribution function at uniform numbers."""
        del num_tokens  # this density doesn't depend on the resolution
        uniform = draw_uniform(num_samples, generator, stratified)
        sigmas = 1 - 1 / (torch.tan(math.pi / 2 * uniform) + 1)
        return sigmas.clamp(1e-6, 1 - 1e-6).to(device=device, dtype=torch.float32)
