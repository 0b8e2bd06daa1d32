"""Pipelines: text and images to video, in the style of Diffusers."""
