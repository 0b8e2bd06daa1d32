"""The denoising core: token states, conditions, guidance and the loop, for sampling and training."""
