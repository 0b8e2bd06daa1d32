"""Where random numbers come from."""

from __future__ import annotations

import torch

Generators = torch.Generator | list[torch.Generator] | None
"""One generator for a batch, one for each of its samples, or None for torch's global state."""
