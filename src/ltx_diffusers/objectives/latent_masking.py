"""SSVAE's latent masked reconstruction (LMR, arXiv 2512.05394): the decoder must do without some of the latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import InputError
from ..functional.draws import Draws
from . import objectives
from .vae_objective import VAEObjective


@objectives.register("latent-masking")
class LatentMasking(VAEObjective):
    """SSVAE's LMR: in training, blocks of the drawn latents are replaced by one learned token.

    It gives no loss of its own: the reconstruction losses stay those of the whole clip. Per step one ratio r is drawn;
    floor(r * latents / block) blocks are chosen without replacement, the same ones in the whole batch and all channels.
    Latents that don't fill a block at the end of an axis are never replaced, though the ratio counts them.

    Args:
        ratios: Shares of the latents, one of which is drawn per step.
        probabilities: How likely each is.
        block: Latent frames, rows and columns of a block. Published: 1x1x1 at 256 pixels; 2x2x2 at 512, with the
            probabilities (0.6, 0.1, 0.15, 0.15).

    Raises:
        InputError: If a setting is impossible.
    """

    gives_loss = False

    def __init__(
        self,
        ratios: Sequence[float] = (0.0, 0.25, 0.5, 0.75),
        probabilities: Sequence[float] = (0.7, 0.1, 0.1, 0.1),
        block: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        if len(ratios) != len(probabilities) or not all(0 <= ratio <= 1 for ratio in ratios):
            raise InputError(
                "latent masking needs a probability for each ratio, and ratios from 0 to 1",
                got=f"{tuple(ratios)}, {tuple(probabilities)}",
            )
        if min(probabilities, default=-1) < 0 or abs(sum(probabilities) - 1) > 1e-6:
            raise InputError("probabilities of latent masking must add up to 1", got=tuple(probabilities))
        if len(block) != 3 or min(block) < 1:
            raise InputError("a block of latent masking needs three sizes of 1 or more", got=tuple(block))
        self.ratios = tuple(ratios)
        self.probabilities = torch.tensor(probabilities)
        self.block = tuple(block)
        self.token: nn.Parameter | None = None
        self._masked_share = 0.0

    def setup(self, vae: nn.Module) -> None:
        """Draw the token, (1, C, 1, 1, 1)."""
        config = vae.config
        channels = config.latent_channels if "latent_channels" in config else config.z_dim  # Wan's VAE
        self.token = nn.Parameter(torch.randn(1, channels, 1, 1, 1))

    def on_latents(self, latents: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        """Latents (B, C, F', H', W') with some of them replaced."""
        mask = self.draw_mask(latents, None if draws is None else draws.shared)
        self._masked_share = float(mask.float().mean())
        # The token takes part in every step, masked or not: processes that train together must agree on who does.
        return torch.where(mask, self.token.to(latents.dtype), latents + 0 * self.token)

    def draw_mask(self, latents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """What is replaced: bool (1, 1, F', H', W')."""
        device, sizes = latents.device, latents.shape[2:]
        weights = self.probabilities.to(device)
        ratio = self.ratios[int(torch.multinomial(weights, 1, generator=generator))]
        grid = [size // side for size, side in zip(sizes, self.block, strict=True)]
        blocks = grid[0] * grid[1] * grid[2]
        count = min(blocks, int(ratio * sizes.numel() / (self.block[0] * self.block[1] * self.block[2])))
        mask = torch.zeros(sizes, dtype=torch.bool, device=device)
        if count:
            chosen = torch.zeros(blocks, dtype=torch.bool, device=device)
            chosen[torch.randperm(blocks, generator=generator, device=device)[:count]] = True
            chosen = chosen.reshape(grid)
            for axis, side in enumerate(self.block):
                chosen = chosen.repeat_interleave(side, dim=axis)
            mask[: chosen.shape[0], : chosen.shape[1], : chosen.shape[2]] = chosen
        return mask[None, None]

    def diagnostics(self) -> dict[str, torch.Tensor]:
        """Share of the latents that was replaced."""
        return {"masked_share": torch.tensor(self._masked_share)}
