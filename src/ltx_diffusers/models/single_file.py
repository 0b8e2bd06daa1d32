"""`from_single_file` of our models: their weights and settings from one checkpoint file, in whatever format.

How files are read is in `conversion`, which builds on the models; so it is found through a registry.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..registry import Registry

if TYPE_CHECKING:
    import torch

single_file_loaders: Registry[Callable[..., Any]] = Registry(
    "single-file loader", builtins=("ltx_diffusers.conversion.single_file",)
)
"""Its one entry, "checkpoint", loads a model of a given class from a file."""


class SingleFileMixin:
    """Adds `from_single_file` to a model."""

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path: str | Path,
        *,
        version: str | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        fp8: str = "dequantize",
        quantization_config: Any = None,
        device: str | torch.device | None = None,
        allow_pickle: bool = False,
        **hub: Any,
    ) -> Self:
        """Load this model from a checkpoint file: official, ComfyUI's, Diffusers' or GGUF.

        Files with other models beside this one are fine; only this model's tensors are read, one by one. What the
        file doesn't tell about its release must be said with `version`; an error names the choices.

        Args:
            pretrained_model_link_or_path: A file or an index of shards; or a file on the Hub, as its link or as
                "owner/repository/file.safetensors".
            version: The release, a key of `conversion.releases.RELEASES`, where the file can't tell.
            dtype: Precision of the weights. None: that of the file; for fp8 and GGUF, bfloat16.
            torch_dtype: The same, by Diffusers' older name.
            fp8: What to do with fp8 weights: "dequantize" stores them in `dtype`, which doubles their memory; "keep"
                leaves matrices in fp8 and computes in `dtype`, through Diffusers' layerwise casting. Fp8 with scales
                can only be dequantised.
            quantization_config: A quantisation of Diffusers, applied while loading; `GGUFQuantizationConfig` keeps a
                GGUF file's matrices as they are.
            device: Where the model goes; the CPU if None.
            allow_pickle: Whether `.ckpt`, `.pt`, `.pth` and `.bin` may be opened, for weights only.
            **hub: For files on the Hub: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            CheckpointError: If the file is missing, damaged, hostile, of another model, or doesn't tell its release.
            InputError: If an argument can't be used.
        """
        return single_file_loaders.get("checkpoint")(
            cls,
            pretrained_model_link_or_path,
            version=version,
            dtype=dtype if dtype is not None else torch_dtype,
            fp8=fp8,
            quantization_config=quantization_config,
            device=device,
            allow_pickle=allow_pickle,
            **hub,
        )
