"""The whole LTX-Video stack as one library in the style of Diffusers."""

__version__ = "0.1.0"
