"""Training: configs, the loop on accelerate, checkpoints, and one file for each kind of model that is trained."""
