"""The whole LTX-Video stack as one library in the style of Diffusers."""
