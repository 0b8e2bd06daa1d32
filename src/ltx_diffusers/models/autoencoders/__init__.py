"""Video autoencoders, by name in the registry `autoencoders`.

An entry is called with the arguments of its config and gives the model: a class, or a function that imports
it only then, so that listing the names needs no torch. The model has

- `encode(x)`, whose result has `latent_dist`, for videos x (B, C, F, H, W) in [-1, 1];
- `decode(z, temb=None, return_dict=True, generator=None)`, whose result has `sample`;
- `config`, `spatial_compression_ratio`, `temporal_compression_ratio`, and the buffers `latents_mean` and
  `latents_std` (C',).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import RegistrationError
from ...registry import Registry

if TYPE_CHECKING:
    from .autoencoder_kl_ltx import AutoencoderKLLTX


def _check_callable(name: str, entry: object) -> None:
    if not callable(entry):
        raise RegistrationError(
            f"the autoencoder {name!r} can't be called with the arguments of a config",
            got=repr(entry),
            expected="a class, or a function that builds the model",
        )


autoencoders: Registry[Callable] = Registry("autoencoder", _check_callable)


@autoencoders.register("ltx")
def ltx(**config: object) -> AutoencoderKLLTX:
    """The autoencoder of LTX-Video; `config` as in `AutoencoderKLLTX`, or one of `released.RELEASED`."""
    from .autoencoder_kl_ltx import AutoencoderKLLTX

    return AutoencoderKLLTX(**config)


def __getattr__(name: str) -> object:
    if name == "AutoencoderKLLTX":
        from .autoencoder_kl_ltx import AutoencoderKLLTX

        return AutoencoderKLLTX
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
