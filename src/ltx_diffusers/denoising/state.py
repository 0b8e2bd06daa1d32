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

STRENGTH_RULES = ("official", "proportional")


def check_strength_rule(name: str) -> None:
    """Check the name of a rule.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in STRENGTH_RULES:
        raise InputError(
            "unknown strength_rule", got=repr(name), expected=f"one of {', '.join(STRENGTH_RULES)}"
        )


@dataclass(frozen=True)
class TokenState:
    """Tokens of a batch of videos on their way from noise to latents.

    L counts all tokens: first the target's, in (F, H, W) order, then `num_extra` that only serve as context.

    Attributes:
        tokens: (B, L, C) float32, normalised latents. Gaussian noise until `at_noise_level` (0 for extra tokens,
            whose noise is drawn there), from then on the noisy tokens themselves.
        strength: (B, L) float32 in [0, 1]. How strongly a token is given: 0 is free, 1 fixed for good, and
            between them as `strength_rule` says.
        clean: (B, L, C) float32, the clean latents of given tokens. Free tokens hold 0 in sampling and the
            latents of the training video in training.
        coords: (B, 3, L) float32, seconds and pixels (`functional.coordinates`).
        size: Latent frames, rows and columns of the target.
        placement: How the target's latents lie in time and space; gives further tokens their coordinates.
        num_extra: Tokens behind the target's, dropped before decoding.
        strength_rule: What a strength s between 0 and 1 means, one of `STRENGTH_RULES`. "official": the token waits
            at noise level 1 - s until the video has come down to it, then joins. "proportional": its level is
            (1 - s) sigma all along, and its clean prediction is held to the given latents with weight s
            (ComfyUI's and LTX-2's noise masks).
    """

    tokens: Tensor
    strength: Tensor
    clean: Tensor
    coords: Tensor
    size: VideoSize
    placement: Placement
    num_extra: int = 0
    strength_rule: str = STRENGTH_RULES[0]

    @property
    def num_target(self) -> int:
        """Tokens of the target: F * H * W."""
        return self.size.frames * self.size.height * self.size.width

    @property
    def is_conditioned(self) -> bool:
        """Whether any token is given. Waits for the device."""
        return bool((self.strength > 0).any())


def from_noise(
    noise: Tensor,
    placement: Placement,
    clean: Tensor | None = None,
    strength_rule: str = STRENGTH_RULES[0],
) -> TokenState:
    """A state without conditions.

    Args:
        noise: Gaussian noise (B, C, F, H, W).
        placement: How the video lies in time and space.
        clean: Normalised latents of training videos (B, C, F, H, W); None in sampling.
        strength_rule: What strengths between 0 and 1 mean, one of `STRENGTH_RULES`.

    Raises:
        InputError: If the shapes don't fit each other, or there is no such rule.
    """
    check_strength_rule(strength_rule)
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
        strength_rule=strength_rule,
    )


def token_levels(state: TokenState, sigma: float | Tensor) -> Tensor:
    """Noise level of each token (B, L) when the video is at `sigma`, a number or one per sample (B,)."""
    sigma = _column(sigma, state)
    if state.strength_rule == "proportional":
        return sigma * (1 - state.strength)
    return torch.minimum(sigma, 1 - state.strength)


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

    The margin of 1e-6 is the official sampler's, for levels that differ by rounding only. By the proportional rule
    every token moves that isn't fixed.
    """
    if state.strength_rule == "proportional":
        return state.strength < 1
    return _column(sigma, state) - 1e-6 < 1 - state.strength


def _column(sigma: float | Tensor, state: TokenState) -> Tensor:
    """Noise levels (1 or B, 1) on the state's device; a number gets there without a copy that waits."""
    if isinstance(sigma, Tensor):
        return sigma.to(state.strength).reshape(-1, 1)
    return state.strength.new_full((1, 1), sigma)


def renoised(state: TokenState, sigma: float, scale: float, noise: Tensor) -> TokenState:
    """Fixed tokens with a little noise on them, less and less as the video clears up: clean + scale sigma^2 noise.

    A first frame without it easily gives a video that stands still (official pipeline,
    `add_noise_to_image_conditioning_latents`, with a scale of 0.15).

    Args:
        state: On its way.
        sigma: Noise level of the video.
        scale: Standard deviation of the noise at sigma = 1.
        noise: Gaussian noise (B, L, C).
    """
    fixed = (state.strength > 1 - 1e-6)[..., None]
    return replace(state, tokens=torch.where(fixed, state.clean + scale * sigma**2 * noise, state.tokens))


def target_tokens(state: TokenState) -> Tensor:
    """The tokens of the video itself (B, F*H*W, C), without the extra ones."""
    return state.tokens[:, : state.num_target]


def with_target_tokens(state: TokenState, tokens: Tensor) -> TokenState:
    """The state with other tokens for the video itself (B, F*H*W, C); the extra ones stay."""
    return replace(state, tokens=torch.cat([tokens, state.tokens[:, state.num_target :]], dim=1))


def target_latents(state: TokenState) -> Tensor:
    """The latents of the video itself (B, C, F, H, W), normalised."""
    return unpack_latents(target_tokens(state), *state.size)
