"""Models: the transformer and the autoencoders, in Diffusers' format."""
