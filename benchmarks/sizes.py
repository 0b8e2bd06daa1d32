"""How large models and videos of the benchmarks are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltx_diffusers.geometry import VideoSize, latent_size
from ltx_diffusers.models.autoencoders.released import RELEASED as RELEASED_VAES
from ltx_diffusers.models.transformers.released import RELEASED

FRAME_RATE = 25.0
TEXT_LENGTH = 128
"""Diffusers pads and cuts prompts to it."""
WORDS = {"positive": 40, "negative": 1}
"""Tokens of the prompt, and of the empty negative one."""
LATENT_CHANNELS = 128

Video = tuple[int, int, int]
"""Frames, rows and columns of pixels."""


@dataclass(frozen=True)
class Size:
    """How large the models and the video are.

    Attributes:
        transformer: Settings of the transformer.
        video: Of a whole generation, and of transformer steps.
        long_video: That the VAE codes in little memory.
        vae_divisor: What the released VAE's widths are divided by.
        vae_version: Its release.
        tile: Side and distance in pixels of the tiles in space that the VAE codes.
        steps: Steps of a whole generation.
    """

    transformer: dict[str, Any]
    video: Video
    long_video: Video
    vae_divisor: int = 1
    vae_version: str = "0.9.5"
    tile: tuple[int, int] = (512, 448)
    steps: int = 4

    @property
    def vae(self) -> dict[str, Any]:
        """Settings of the VAE."""
        settings = dict(RELEASED_VAES[self.vae_version])
        for name in ("block_out_channels", "decoder_block_out_channels"):
            settings[name] = tuple(channels // self.vae_divisor for channels in settings[name])
        return settings

    @property
    def short_video(self) -> Video:
        """At most 25 frames of the video: what the VAE codes as a whole."""
        frames, height, width = self.video
        return min(frames, 25), height, width

    @property
    def latent(self) -> VideoSize:
        """Latent frames, rows and columns of the video."""
        return latent_size(VideoSize(*self.video))


def _narrow(width: int, layers: int, text: int) -> dict[str, Any]:
    head = 64
    heads = {"num_attention_heads": width // head, "attention_head_dim": head, "cross_attention_dim": width}
    return {**heads, "num_layers": layers, "caption_channels": text}


_WHOLE_VIDEO = (121, 512, 768)

SIZES: dict[str, Size] = {
    "tiny": Size(_narrow(128, 2, 64), (9, 64, 96), (41, 64, 96), 16, tile=(64, 32), steps=2),
    "small": Size(_narrow(512, 8, 1024), (17, 192, 256), (121, 64, 96), 4, tile=(64, 32)),
    "reduced": Size(_narrow(512, 8, 1024), (41, 384, 512), (121, 128, 192), 4, tile=(128, 96)),
    "2b": Size(dict(RELEASED["2b"]), _WHOLE_VIDEO, _WHOLE_VIDEO, steps=20),
    "13b": Size(dict(RELEASED["13b"]), _WHOLE_VIDEO, _WHOLE_VIDEO, steps=20),
}
"""Widths and lengths by name. Heads are 64 wide; attention takes a quarter of the reduced work, a third of the 2B's."""
