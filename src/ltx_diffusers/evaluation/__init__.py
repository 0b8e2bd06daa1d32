"""Measures of videos, of video autoencoders and their latents, and the judge of moving-shapes.

What compares videos (`metrics`, `judge`) works on arrays alone and imports no torch.
"""

from .metrics import flicker, measures, psnr, ssim

__all__ = ["flicker", "measures", "psnr", "ssim"]
