"""Training objectives: what a model is asked to do, as small terms that compose.

An objective is a class that is built from its settings and called with a record of one training pass. Its attribute
`inputs` names the record's type (`VAEPass`, `FlowPass`). It returns one loss per sample, shape (B,), and its
docstring says how the other dimensions are reduced. Only the trainer averages over samples, and every weight is a
value of the config.

That is all that an objective must be. One of a VAE can do more by hooks at fixed places of the pass: see
`vae_objective.VAEObjective`; `composition.Composition` runs several of them together.
"""

from __future__ import annotations

from ..registry import Registry

_MODULES = (
    "adversarial",
    "distillation",
    "flow_matching",
    "latent_masking",
    "local_correlation",
    "perceptual",
    "vae",
    "wavelet",
)

objectives: Registry = Registry("objective", builtins=tuple(f"{__name__}.{module}" for module in _MODULES))

__all__ = ["objectives"]
