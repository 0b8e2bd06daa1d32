"""Training objectives: what a model is asked to do, as small terms that compose.

An objective is a class that is built from its settings and called with a record of one training pass. Its attribute
`inputs` names the record's type (`VAEPass`, `FlowPass`). It returns one loss per sample, shape (B,), and its
docstring says how the other dimensions are reduced. Only the trainer averages over samples, and every weight is a
value of the config.
"""

from __future__ import annotations

from ..registry import Registry

objectives: Registry = Registry("objective", builtins=(f"{__name__}.flow_matching", f"{__name__}.vae"))

__all__ = ["objectives"]
