"""LoRA for the pipelines: Diffusers' and PEFT's own mechanisms, fed from every format, with nothing lost in silence.

What differs from Diffusers' `LTXVideoLoraLoaderMixin`:

- Files of every format are read, with alpha, rank patterns, DoRA and full renames (`conversion.lora`).
- A report says what was used. A LoRA without effect is an error.
- Saving writes alpha; a LoRA that is swapped in brings its scales, also where ranks differ by layer.
- Unfusing gives back the scale from before fusing. What PEFT would ignore while a LoRA is fused, or what would take it
  out again, is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import LTXVideoLoraLoaderMixin
from diffusers.utils import get_adapter_name
from torch import Tensor, nn

from ..conversion.lora.adapter_config import peft_settings
from ..conversion.lora.files import DIFFUSERS_FILE, WEIGHT_ENDINGS, read_lora, write_lora
from ..conversion.lora.formats import to_tensors
from ..conversion.lora.layers import Lora
from ..conversion.lora.peft_model import (
    extract_adapter,
    for_swapping,
    fused_adapters,
    linear_shapes,
    lora_modules,
    restore_numbers,
    set_scales,
    storage_without_sums,
)
from ..conversion.lora.report import LoraReport, check_effect, describe_lora, fitted
from ..conversion.lora.repositories import fetch_lora
from ..errors import InputError

logger = logging.getLogger(__name__)

_TRANSFORMER = ("transformer",)
_KEPT_FUSED = "unload_lora_weights() keeps what is fused for good, unfuse_lora() takes it out"


class LTXLoraMixin(LTXVideoLoraLoaderMixin):
    """Loads, saves, weighs, fuses and swaps LoRAs of the pipeline's transformer."""

    # Layers with fused adapters, these adapters' names, and their scales without `lora_scale`.
    _scales_before_fusing: Sequence[tuple[nn.Module, str, float | Tensor]] = ()

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor], **kwargs: Any
    ) -> Any:
        """A LoRA of any format as Diffusers' keys ("transformer. ... .lora_A.weight").

        Args:
            pretrained_model_name_or_path_or_dict: As `load_lora_weights` takes it.
            **kwargs: The same; and `return_lora_metadata`, whether PEFT's settings, alpha among them, come too.

        Raises:
            InputError: If it can't be read, would have no effect, or PEFT has no adapter for it.
        """
        with_metadata = kwargs.pop("return_lora_metadata", False)
        lora = _read(pretrained_model_name_or_path_or_dict, **kwargs)
        lora = replace(lora, differences={})
        tensors = to_tensors(lora, "diffusers")
        return (tensors, _with_prefix(peft_settings(lora))) if with_metadata else tensors

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        *,
        low_cpu_mem_usage: bool = True,
        **kwargs: Any,
    ) -> LoraReport:
        """Load a LoRA of any format and make it active.

        Args:
            pretrained_model_name_or_path_or_dict: A file, a folder, a repository on the Hub, or tensors by key.
            adapter_name: Its name from then on; None chooses "default_0" and so on.
            hotswap: Put it in the place of the adapter of that name, whose layers it may not exceed; compiled models
                need not be compiled again if `enable_lora_hotswap` was called before.
            low_cpu_mem_usage: Create the adapter's layers without memory of their own first.
            **kwargs: `weight_name`, the file in a folder or repository; `subfolder`, `revision`, `token`,
                `cache_dir`, `force_download`, `local_files_only`; `use_safetensors=False` lets pickles be opened,
                for weights only.

        Returns:
            Which keys are used, which aren't and why, and how much changes in each block.

        Raises:
            InputError: If it can't be read or used, or would have no effect; before the model is touched.
        """
        source = pretrained_model_name_or_path_or_dict
        transformer = self.transformer
        self._check_adapter_name(adapter_name, hotswap)
        lora = fitted(_read(source, **kwargs), linear_shapes(transformer), differences=False)
        report = describe_lora(lora)
        check_effect(report, "the LoRA" if isinstance(source, Mapping) else str(source))
        self._check_layers(lora, adapter_name, hotswap)
        adapter_name = adapter_name or get_adapter_name(transformer)
        settings, tensors = peft_settings(lora), to_tensors(lora, "diffusers")
        if (
            hotswap
        ):  # PEFT wants equal patterns and dropouts; scales are set afterwards, and nothing is trained
            current = transformer.peft_config[adapter_name]
            settings |= {"alpha_pattern": current.alpha_pattern, "lora_dropout": current.lora_dropout}
            tensors = for_swapping(transformer, adapter_name, tensors)
        self.load_lora_into_transformer(
            tensors,
            transformer=transformer,
            adapter_name=adapter_name,
            metadata=_with_prefix(settings),
            _pipeline=self,
            low_cpu_mem_usage=low_cpu_mem_usage,
            hotswap=hotswap,
        )
        if hotswap:
            set_scales(transformer, adapter_name, lora)
        else:
            restore_numbers(transformer, adapter_name, lora, transformer.dtype)
        if report.unmatched:
            logger.warning("A part of the LoRA isn't used. %s", report)
        return report

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | Path,
        transformer_lora_layers: nn.Module | Mapping[str, Tensor] | None = None,
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable[[dict[str, Tensor], str], Any] | None = None,
        safe_serialization: bool = True,
        transformer_lora_adapter_metadata: Mapping[str, Any] | None = None,
        *,
        adapter_name: str | None = None,
        format: str = "diffusers",
        dtype: torch.dtype | None = None,
    ) -> Path | None:
        """Save a LoRA of the transformer.

        Args:
            save_directory: The folder.
            transformer_lora_layers: The transformer itself, whose adapter is saved with its scales; or tensors by
                key, as `get_peft_model_state_dict` gives them.
            is_main_process: Nothing is written where this is False.
            weight_name: The file's name; Diffusers' own if None.
            save_function: Writes (tensors, path) in place of our writer, without metadata.
            safe_serialization: Must be True: pickles aren't written.
            transformer_lora_adapter_metadata: For tensors by key: PEFT's settings, which have alpha.
            adapter_name: For the transformer: which of its adapters; may be left out if there is one.
            format: One of "diffusers", "peft", "comfy" and "kohya".
            dtype: Of the tensors; None keeps theirs.

        Returns:
            The file, or None if nothing was written.

        Raises:
            InputError: If there is nothing to save, or the format can't hold it.
        """
        if transformer_lora_layers is None:
            raise InputError(
                "nothing to save", fix="pass the transformer: save_lora_weights(folder, pipe.transformer)"
            )
        if not safe_serialization:
            raise InputError("LoRAs are saved as safetensors", got="safe_serialization=False")
        if isinstance(transformer_lora_layers, nn.Module):
            lora = extract_adapter(transformer_lora_layers, adapter_name)
        else:
            if transformer_lora_adapter_metadata is None:
                logger.warning(
                    "Tensors alone don't say alpha: readers will take it to be the rank. Pass the transformer in "
                    "their place, or transformer_lora_adapter_metadata."
                )
            lora = read_lora(transformer_lora_layers, settings=transformer_lora_adapter_metadata)
        if not is_main_process:
            return None
        folder = Path(save_directory)
        path = folder if format == "peft" else folder / (weight_name or DIFFUSERS_FILE)
        if save_function is None:
            return write_lora(lora, path, format, dtype)
        folder.mkdir(parents=True, exist_ok=True)
        save_function(to_tensors(lora if dtype is None else lora.to(dtype), format), str(path))
        return path

    def fuse_lora(
        self,
        components: Sequence[str] = _TRANSFORMER,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add LoRAs to the transformer's weights, so that they cost nothing in a call.

        Args:
            components: ["transformer"].
            lora_scale: Scale on top of that of `set_adapters`.
            safe_fusing: Check for NaN first; costs a copy of each weight.
            adapter_names: Which; the active ones if None.
            **kwargs: As Diffusers takes them.

        Raises:
            InputError: If there is no such adapter, or one is fused already.
        """
        names = self.get_active_adapters() if adapter_names is None else list(adapter_names)
        self._check_adapters(names)
        self._check_not_fused("fuse more")
        self._check_can_be_fused()
        modules = [(module, name) for _, module in lora_modules(self.transformer) for name in names]
        before = [(module, name, module.scaling[name]) for module, name in modules if name in module.scaling]
        for module, name, scale in before:
            module.scaling[name] = scale * lora_scale
        self._scales_before_fusing = before
        try:
            super().fuse_lora(list(components), 1.0, safe_fusing, names, **kwargs)
        except BaseException:
            self.unfuse_lora(components)
            raise

    def unfuse_lora(self, components: Sequence[str] = _TRANSFORMER, **kwargs: Any) -> None:
        """Take fused LoRAs out of the weights again; they then act with the scales from before.

        Args:
            components: ["transformer"].
            **kwargs: As Diffusers takes them.
        """
        fused = fused_adapters(self.transformer)
        if fused:
            super().unfuse_lora(list(components), **kwargs)
        for module, name, scale in self._scales_before_fusing:
            module.scaling[name] = scale
        self._scales_before_fusing = ()

    def set_adapters(
        self, adapter_names: Sequence[str] | str, adapter_weights: float | dict | list | None = None
    ) -> None:
        """Choose which LoRAs act, and how strongly.

        Args:
            adapter_names: One or several.
            adapter_weights: One for all, or one for each; 1 if None.

        Raises:
            InputError: If there is no such adapter, or some are fused, so that the choice would have no effect.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_adapters(names)
        self._check_not_fused("change their weights")
        super().set_adapters(names, adapter_weights)

    def delete_adapters(self, adapter_names: Sequence[str] | str) -> None:
        """Delete LoRAs.

        Raises:
            InputError: If there is no such adapter, or some are fused, so that they couldn't be taken out any more.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_adapters(names)
        self._check_not_fused("delete some")
        super().delete_adapters(names)

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs. What is fused stays in the weights, for good."""
        super().unload_lora_weights()
        self._scales_before_fusing = ()

    def _check_adapter_name(self, name: str | None, hotswap: bool) -> None:
        """What can be checked before a file is read."""
        known = self.get_list_adapters().get("transformer", [])
        if hotswap and name not in known:
            raise InputError(
                f"there is no adapter {name!r} to swap",
                expected=f"one of {', '.join(known)}" if known else "a loaded adapter",
                fix=None if known else "load the first one without hotswap",
            )
        if name in known and not hotswap:
            raise InputError(
                f"there is already an adapter {name!r}",
                fix=f'choose another name, pass hotswap=True, or delete_adapters("{name}") first',
            )
        self._check_not_fused("load more")

    def _check_layers(self, lora: Lora, adapter_name: str | None, hotswap: bool) -> None:
        """What the model's state forbids."""
        for name, module in self.transformer.named_modules():
            inputs = [f"{name}.{layer}" for layer in ("to_q", "to_k", "to_v")]
            if getattr(module, "fused_projections", False) and any(layer in lora.layers for layer in inputs):
                raise InputError(
                    f"the projections of {name} are fused, so that this LoRA would have no effect on them",
                    fix="call pipe.transformer.unfuse_qkv_projections() first",
                )
        for name in lora.layers if lora.uses_dora else ():
            storage = storage_without_sums(self.transformer.get_submodule(name))
            if storage is not None:
                raise InputError(
                    f"PEFT's DoRA can't compute with weights stored as {storage}",
                    got=name,
                    fix="load the model in bfloat16, or merge the LoRA into its checkpoint (ltx-diffusers lora merge)",
                )
        if not hotswap:
            return
        present = {name for name, _ in lora_modules(self.transformer, adapter_name)}
        new = [name for name in lora.layers if name not in present]
        fix = f'delete_adapters("{adapter_name}") and load it without hotswap'
        if new:
            raise InputError(
                "a LoRA that is swapped in may not change layers that the one before it didn't",
                got=f"{len(new)}, such as {new[0]}",
                fix=fix,
            )
        if lora.uses_dora or self.transformer.peft_config[adapter_name].use_dora:
            raise InputError("PEFT can't swap LoRAs with DoRA", fix=fix)
        if any(layer.bias is not None for layer in lora.layers.values()) != bool(
            self.transformer.peft_config[adapter_name].lora_bias
        ):
            raise InputError("a LoRA with biases can't be swapped for one without", fix=fix)

    def _check_adapters(self, names: Sequence[str]) -> None:
        known = self.get_list_adapters().get("transformer", [])
        missing = [name for name in names if name not in known]
        if missing or not known:
            raise InputError(
                f"there is no adapter {missing[0]!r}" if missing else "no LoRA is loaded",
                expected=f"one of {', '.join(known)}" if known else None,
                fix=None if known else "call load_lora_weights first",
            )

    def _check_can_be_fused(self) -> None:
        for name, module in lora_modules(self.transformer):
            storage = storage_without_sums(module)
            if storage is not None:
                raise InputError(
                    f"a LoRA can't be fused into weights stored as {storage}",
                    got=name,
                    fix="leave it unfused, or load the model in bfloat16",
                )

    def _check_not_fused(self, action: str) -> None:
        """PEFT ignores scales of fused adapters, and takes these out when another is loaded."""
        fused = fused_adapters(self.transformer)
        if fused:
            raise InputError(f"LoRAs are fused ({', '.join(sorted(fused))}); can't {action}", fix=_KEPT_FUSED)


def _read(
    source: str | Path | Mapping[str, Tensor],
    *,
    weight_name: str | None = None,
    subfolder: str | None = None,
    use_safetensors: bool | None = None,
    **hub: Any,
) -> Lora:
    """A LoRA from tensors, a file, a folder, or a repository of the Hub."""
    allow_pickle = use_safetensors is False
    if isinstance(source, Mapping):
        return read_lora(source)
    path = Path(source).expanduser()
    if not path.exists() and (path.suffix in WEIGHT_ENDINGS or str(source).count("/") != 1):
        raise InputError(f"there is no file, folder or repository {str(source)!r}")
    if not path.exists():
        return read_lora(
            fetch_lora(str(source), weight_name, subfolder=subfolder, **hub), allow_pickle=allow_pickle
        )
    path = path / subfolder if subfolder else path
    return read_lora(path, weight_name=weight_name, allow_pickle=allow_pickle)


def _with_prefix(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"transformer.{name}": value for name, value in settings.items()}
