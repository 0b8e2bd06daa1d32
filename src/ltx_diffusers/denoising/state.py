"""The state that denoising works on: tokens, how strongly each is given, and where each stands.

Text-to-video has no given tokens, image-to-video has those of the first frame, keyframes and references add
tokens of their own behind the target's. Sampling and training build their tokens with the same three steps:

1. `from_noise`: Gaussian noise for the target, and for training the clean latents;
2. conditions (`denoising.conditions`) mark tokens as given, or append given ones;
3. `at_noise_level`: every token is brought to its own level, min(sigma, 1 - strength).

Sampling then starts at sigma 1; training draws a sigma per sample and learns `velocity_target` there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..errors import InputError
from ..functional.coordinates import Placement
from ..functional.latents import pack_latents, unpack_latents
from ..geometry import VideoSize


@dataclass(frozen=True)
class TokenState:
    """Tokens of a batch of videos on their way from noise to latents.

    L counts all tokens: first the target's, in (F, H, W) order, then `num_extra` that only serve as context.

    Attributes:
        tokens: (B, L, C) float32, normalised latents. Gaussian noise until `at_noise_level` (0 for extra tokens,
            whose noise is drawn there), from then on the noisy tokens themselves.
        strength: (B, L) float32 in [0, 1]. How strongly a token is given: 0 is free, 1 fixed for good. A
            token of strength s starts at noise level 1 - s and joins once sigma falls below that.
        clean: (B, L, C) float32, the clean latents of given tokens. Free tokens hold 0 in sampling and the
            latents of the training video in training.
        coords: (B, 3, L) float32, seconds and pixels (`functional.coordinates`).
        size: Latent frames, rows and columns of the target.
        placement: How the target's latents lie in time and space; gives further tokens their coordinates.
        num_extra: Tokens behind the target's, dropped before decoding.
    """

    tokens: Tensor
    strength: Tensor
    clean: Tensor
    coords: Tensor
    size: VideoSize
    placement: Placement
    num_extra: int = 0

    @property
    def num_target(self) -> int:
        """Tokens of the target: F * H * W."""
        return self.size.frames * self.size.height * self.size.width

    @property
    def is_conditioned(self) -> bool:
        """Whether any token is given. Waits for the device."""
        return bool((self.strength > 0).any())


def from_noise(noise: Tensor, placement: Placement, clean: Tensor | None = None) -> TokenState:
    """A state without conditions.

    Args:
        noise: Gaussian noise (B, C, F, H, W).
        placement: How the video lies in time and space.
        clean: Normalised latents of training videos (B, C, F, H, W); None in sampling.

    Raises:
        InputError: If the shapes don't fit each other.
    """
    tokens = pack_latents(noise).float()
    size = VideoSize(*noise.shape[2:])
    if clean is not None and clean.shape != noise.shape:
        raise InputError(
            "noise and latents differ in shape", got=tuple(noise.shape), expected=tuple(clean.shape)
        )
    return TokenState(
        tokens=tokens,
        strength=tokens.new_zeros(tokens.shape[:2]),
        clean=torch.zeros_like(tokens) if clean is None else pack_latents(clean).float(),
        coords=placement.coordinates(size, batch_size=noise.shape[0], device=noise.device),
        size=size,
        placement=placement,
    )


def token_levels(state: TokenState, sigma: float | Tensor) -> Tensor:
    """Noise level of each token (B, L) when the video is at `sigma`, a number or one per sample (B,)."""
    sigma = torch.as_tensor(sigma, dtype=torch.float32, device=state.strength.device)
    return torch.minimum(sigma.reshape(-1, 1), 1 - state.strength)


def mix_noise(clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    """Rectified flow's path: (1 - level) clean + level noise (arXiv 2209.03003).

    Args:
        clean: (B, L, C).
        noise: (B, L, C).
        levels: Noise level of each token (B, L) in [0, 1].
    """
    levels = levels[..., None]
    return (1 - levels) * clean + levels * noise


def at_noise_level(
    state: TokenState, sigma: float | Tensor, generator: torch.Generator | list[torch.Generator] | None = None
) -> TokenState:
    """Turn the noise in `state.tokens` into tokens, each at its own level for a video at `sigma`.

    Args:
        state: A state whose tokens are noise still, after its conditions.
        sigma: 1 to start sampling; in training one per sample (B,).
        generator: Source of the noise of the extra tokens, which have none yet; one, or one per sample.
    """
    noise = state.tokens
    if state.num_extra:
        shape = (noise.shape[0], state.num_extra, noise.shape[2])
        extra = randn_tensor(shape, generator, noise.device, noise.dtype)
        noise = torch.cat([noise[:, : state.num_target], extra], dim=1)
    return replace(state, tokens=mix_noise(state.clean, noise, token_levels(state, sigma)))


def velocity_target(noise_state: TokenState) -> Tensor:
    """What the model learns to predict: noise - clean (B, L, C), of a state before `at_noise_level`."""
    return noise_state.tokens - noise_state.clean


def moving_tokens(state: TokenState, sigma: float | Tensor) -> Tensor:
    """Which tokens a step from `sigma` moves (B, L): those whose own level isn't below it.

    The margin of 1e-6 is the official sampler's, for levels that differ by rounding only.
    """
    sigma = torch.as_tensor(sigma, dtype=torch.float32, device=state.strength.device)
    return sigma.reshape(-1, 1) - 1e-6 < 1 - state.strength


def target_tokens(state: TokenState) -> Tensor:
    """The tokens of the video itself (B, F*H*W, C), without the extra ones."""
    return state.tokens[:, : state.num_target]


def with_target_tokens(state: TokenState, tokens: Tensor) -> TokenState:
    """The state with other tokens for the video itself (B, F*H*W, C); the extra ones stay."""
    return replace(state, tokens=torch.cat([tokens, state.tokens[:, state.num_target :]], dim=1))


def target_latents(state: TokenState) -> Tensor:
    """The latents of the video itself (B, C, F, H, W), normalised."""
    return unpack_latents(target_tokens(state), *state.size)
