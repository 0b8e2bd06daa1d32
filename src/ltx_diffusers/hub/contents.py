"""What a folder or a repository holds: a pipeline, one component, a LoRA or official single files, in which layout.

Told from file names, JSON files and the names of tensors; nothing heavy is imported for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..errors import InputError
from .sources import COMPONENT_FILE, PIPELINE_FILE

NATIVE, DIFFUSERS, OFFICIAL = "native", "diffusers", "official"
LAYOUTS = (NATIVE, DIFFUSERS, OFFICIAL)

PIPELINE, COMPONENT, LORA, SINGLE_FILE, EMPTY, OTHER = (
    "pipeline",
    "component",
    "lora",
    "single-file",
    "empty",
    "other",
)

CARD = "README.md"
SAMPLES = "samples"
ADAPTER_CONFIG = "adapter_config.json"

COMPONENT_CLASSES = {
    "LTXTransformer3DModel": ("transformer", NATIVE),
    "AutoencoderKLLTX": ("vae", NATIVE),
    "LTXLatentUpsampler": ("spatial_upsampler", NATIVE),
    "LTXFlowMatchScheduler": ("scheduler", NATIVE),
    "LTXVideoTransformer3DModel": ("transformer", DIFFUSERS),
    "AutoencoderKLLTXVideo": ("vae", DIFFUSERS),
    "LTXLatentUpsamplerModel": ("spatial_upsampler", DIFFUSERS),
    "FlowMatchEulerDiscreteScheduler": ("scheduler", DIFFUSERS),
}
"""Part and layout of each class that a config names."""

_LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_LORA_FILES_BESIDE = ("comfyui_lora_weights.safetensors",)
"""The same LoRA in other formats, as `ltx-diffusers train lora` writes it."""
_OFFICIAL_KEYS = (
    "model.diffusion_model.",
    "vae.",
    "patchify_proj.",
    "transformer_blocks.",
    "per_channel_statistics.",
)
_MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
_DOCUMENTS = ("readme", "license", "licence", "notice", ".gitattributes", ".gitignore")


@dataclass(frozen=True)
class Contents:
    """What a folder or repository holds.

    Attributes:
        kind: "pipeline", "component", "lora", "single-file", "empty" (documents at most) or "other".
        layout: "native", "diffusers" or "official"; None for a LoRA, which has the same form in all, and for what
            isn't LTX-Video's.
        part: For a component, which: "transformer", "vae", "spatial_upsampler".
        index: Content of model_index.json or config.json.
        weights: Weight files beside these, for a LoRA and single files.
        seen: What it looks like, for messages.
    """

    kind: str
    layout: str | None = None
    part: str | None = None
    index: dict[str, Any] = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    seen: str = ""

    @property
    def components(self) -> dict[str, tuple[str | None, str]]:
        """Library and class of each component of a pipeline that is there."""
        return {
            name: (entry[0], entry[1])
            for name, entry in self.index.items()
            if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
        }

    @property
    def makes_videos(self) -> bool:
        """Whether it is a pipeline with a transformer, rather than one that upsamples latents."""
        return self.kind == PIPELINE and "transformer" in self.components

    def has(self, name: str) -> bool:
        """Whether a file belongs to this: its weights and configs, and documents and samples beside them."""
        if is_document(name):
            return not name.startswith(".git")
        top, _, rest = name.partition("/")
        inside = rest.endswith(_MODEL_SUFFIXES) and "/" not in rest
        if self.kind == PIPELINE:
            return (inside and top in self.components) or name == PIPELINE_FILE
        if self.kind == COMPONENT:
            weights = name.endswith((".safetensors", ".safetensors.index.json"))
            return not rest and (name == COMPONENT_FILE or weights)
        if self.kind == LORA:
            return name in (*self.weights, ADAPTER_CONFIG)
        # Official single files may come with the text encoder and tokenizer that they lack.
        return (inside and top in ("text_encoder", "tokenizer")) or name in self.weights

    def in_layout(self, layout: str) -> str:
        """What this is once it is uploaded in a layout, in words."""
        if self.kind == LORA:
            return "a LoRA"
        if layout == OFFICIAL:
            return "official single files"
        return f"a {self.part or self.kind} in the {layout} layout"


def describe_files(
    names: Collection[str],
    read_json: Callable[[str], dict[str, Any]],
    read_tensor_names: Callable[[str], Collection[str]],
) -> Contents:
    """What files hold, wherever they are.

    Args:
        names: Their names, with slashes.
        read_json: Gives a JSON file's object.
        read_tensor_names: Gives the names of the tensors in a safetensors file.

    Raises:
        InputError: As `read_json` and `read_tensor_names` raise it.
    """
    if PIPELINE_FILE in names:
        return _pipeline(read_json(PIPELINE_FILE))
    # An adapter's folder may hold the config of the model that it belongs to.
    adapters = tuple(name for name in _LORA_FILES if name in names)
    if adapters:
        adapters += tuple(name for name in _LORA_FILES_BESIDE if name in names)
        return Contents(LORA, weights=adapters, seen="a LoRA")
    if COMPONENT_FILE in names:
        return _component(read_json(COMPONENT_FILE))
    weights = tuple(sorted(name for name in names if "/" not in name and name.endswith(".safetensors")))
    if weights:
        return _loose_files(weights, read_tensor_names)
    others = sorted(name for name in names if not is_document(name))
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        return Contents(OTHER, seen=f"other files ({shown})")
    return Contents(EMPTY, seen="nothing")


def is_document(name: str) -> bool:
    """Whether a file is a card, a licence, git's own or a sample: what may lie beside any model."""
    return name.lower().startswith(_DOCUMENTS) or name.startswith(f"{SAMPLES}/")


def check_file_name(name: str) -> None:
    """Check that a file's name in a repository stays inside the folder that it is put into.

    Raises:
        InputError: If it is absolute, leads upwards, or has characters that a file's name can't have everywhere.
    """
    parts = name.split("/")
    wrong = (
        not name
        or any(part in ("", ".", "..") or part != part.strip() for part in parts)
        or any(ord(character) < 32 or character in '\\:*?"<>|' for character in name)
        or parts[0] == ".git"
        or PurePosixPath(name).is_absolute()
    )
    if wrong:
        raise InputError(
            "the repository names a file that can't be put into a folder safely",
            got=repr(name[:200]),
            expected="a plain relative path",
        )


def _pipeline(index: dict[str, Any]) -> Contents:
    found = Contents(PIPELINE, index=index)
    parts = {
        COMPONENT_CLASSES.get(class_name, (None, None))[0] for _, class_name in found.components.values()
    }
    if not parts & {"transformer", "spatial_upsampler"}:
        name = str(index.get("_class_name"))[:100]
        others = ", ".join(sorted({class_name for _, class_name in found.components.values()}))[:200]
        return Contents(OTHER, index=index, seen=f"a {name} with {others or 'no components'}")
    libraries = {str(library) for library, _ in found.components.values()}
    layout = NATIVE if "ltx_diffusers" in libraries else DIFFUSERS
    return Contents(PIPELINE, layout, index=index, seen=f"a pipeline in the {layout} layout")


def _component(config: dict[str, Any]) -> Contents:
    class_name = str(config.get("_class_name"))
    part, layout = COMPONENT_CLASSES.get(class_name, (None, None))
    if part is None:
        architectures = config.get("architectures")
        names = [config.get("_class_name"), *(architectures if isinstance(architectures, list) else ())]
        kind = next((name for name in [*names, config.get("model_type")] if name), "model of unknown kind")
        return Contents(OTHER, index=config, seen=f"a {str(kind)[:100]}")
    return Contents(COMPONENT, layout, part, config, seen=f"a {part} in the {layout} layout")


def _loose_files(weights: tuple[str, ...], read_tensor_names: Callable[[str], Collection[str]]) -> Contents:
    """Single files: all LoRAs, or all official checkpoints, or neither."""
    kinds = set()
    for name in weights:
        tensors = read_tensor_names(name)
        if tensors and all(
            "lora" in tensor or tensor.endswith((".alpha", ".dora_scale")) for tensor in tensors
        ):
            kinds.add(LORA)
        elif any(tensor.startswith(_OFFICIAL_KEYS) for tensor in tensors):
            kinds.add(SINGLE_FILE)
        else:
            kinds.add(OTHER)
    if kinds == {LORA}:
        return Contents(LORA, weights=weights, seen="a LoRA")
    if kinds == {SINGLE_FILE}:
        return Contents(SINGLE_FILE, OFFICIAL, weights=weights, seen="official single files")
    return Contents(OTHER, weights=weights, seen=f"weights of another kind ({', '.join(weights[:3])})")
