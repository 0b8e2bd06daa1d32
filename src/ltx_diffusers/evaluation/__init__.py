"""Measures of videos, and the judge that reads moving-shapes clips back from their pixels.

Everything here but `shapes`, which runs pipelines, works on arrays alone and imports no torch.
"""

from .metrics import measures, psnr, ssim

__all__ = ["measures", "psnr", "ssim"]
