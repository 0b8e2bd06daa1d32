"""Latent upsamplers."""
