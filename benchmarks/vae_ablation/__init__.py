"""The ablation of the objectives of a video VAE."""
