"""Models for the commands: found, checked cheaply, and loaded without noise."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError, LTXError
from ..hub.sources import (
    COMPONENT_FILE,
    PIPELINE_FILE,
    find_model,
    unknown_repository,
    unreachable_repository,
)
from .conditions import parse_lora

if TYPE_CHECKING:
    import torch

AUTO = "auto"

# Modules of the pipelines that `load_pipeline` loads.
_PIPELINES = {
    "LTXPipeline": "pipeline_ltx",
    "LTXConditionPipeline": "pipeline_ltx_condition",
    "LTXEditPipeline": "pipeline_ltx_edit",
    "LTXLongVideoPipeline": "pipeline_ltx_long_video",
}


def find_pipeline(model: str, text_encoder: str | None = None) -> Path | str:
    """Where a pipeline is: its folder, a checkpoint file, or a repository whose index could be had.

    Args:
        model: What the user gave.
        text_encoder: Where the text encoder of a checkpoint file is.

    Raises:
        UnknownNameError: If there is no such model; the message lists near names.
        InputError: If it isn't a pipeline, a checkpoint file has no text encoder, or the Hub can't be reached and the
            index isn't in the cache.
    """
    file = Path(model).expanduser()
    if file.is_file():
        if text_encoder is None:
            raise InputError(
                f"the checkpoint file {model} has no text encoder",
                fix="give --text-encoder: a folder or repository with T5 and its tokenizer",
            )
        return file
    if text_encoder is not None:
        raise InputError(
            "--text-encoder goes with a checkpoint file", got=f"{text_encoder} for the model {model}"
        )
    found = find_model(model)
    if isinstance(found, str):
        fetch(found, PIPELINE_FILE)
    elif not (found / PIPELINE_FILE).is_file():
        raise InputError(f"{model} is a single component", expected=f"a pipeline, with a {PIPELINE_FILE}")
    return found


def find_vae(model: str) -> tuple[Path | str, str | None]:
    """Where a VAE is: its folder or repository, and the folder in it; `model` is a pipeline or the VAE alone.

    Raises:
        UnknownNameError: If there is no such model; the message lists near names.
        InputError: If it has no VAE, or the Hub can't be reached and the VAE isn't in the cache.
    """
    found = find_model(model)
    if isinstance(found, str):
        fetch(found, f"vae/{COMPONENT_FILE}")
        return found, "vae"
    if (found / "vae" / COMPONENT_FILE).is_file():
        return found, "vae"
    if (found / COMPONENT_FILE).is_file():
        return found, None
    raise InputError(f"{model} has no VAE", expected=f"a vae/{COMPONENT_FILE}, or a VAE's own folder")


def find_upsampler(model: str) -> tuple[Path | str, str | None]:
    """Where a latent upsampler is: its file, folder or repository, and the folder in it.

    Raises:
        UnknownNameError: If there is no such model; the message lists near names.
        InputError: If it has no upsampler, or the Hub can't be reached and it isn't in the cache.
    """
    file = Path(model).expanduser()
    if file.is_file():
        return file, None
    found = find_model(model)
    inside = "latent_upsampler"
    if isinstance(found, str):
        fetch(found, f"{inside}/{COMPONENT_FILE}")
        return found, inside
    if (found / inside / COMPONENT_FILE).is_file():
        return found, inside
    if (found / COMPONENT_FILE).is_file():
        return found, None
    raise InputError(
        f"{model} has no latent upsampler", expected=f"a {inside}/{COMPONENT_FILE}, or its own folder"
    )


def fetch(repository: str, name: str) -> Path:
    """A small file of a repository on the Hub, from the local cache if the Hub can't be reached.

    Raises:
        UnknownNameError: If there is no such repository; the message lists near names.
        InputError: If it has no such file, or can't be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(repository, name))
    except (RepositoryNotFoundError, HFValidationError):
        raise unknown_repository(repository) from None
    except LocalEntryNotFoundError as problem:
        raise unreachable_repository(repository, problem) from None
    except EntryNotFoundError:
        raise InputError(f"the repository {repository} has no {name}") from None
    except Exception as problem:  # the client's network errors have no common base
        raise unreachable_repository(repository, problem) from None


def check_device_name(name: str) -> None:
    """Check what can be checked of a device without torch.

    Raises:
        InputError: If it isn't the name of a device.
    """
    if re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", name) is None:
        raise InputError("unknown device", got=repr(name), expected="auto, cpu, cuda, cuda:1, ... or mps")


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU if there is one. Imports torch.

    Raises:
        InputError: If this machine, or the installed torch, hasn't got it.
    """
    import torch

    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        kind = "GPU" if device.type != "cpu" else "device"
        raise InputError(
            f"there is no {kind} {name} here", fix="use --device cpu, or install torch for your GPU"
        ) from error
    return device


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """A torch dtype by its full name; by default float32 on the CPU and bfloat16 on a GPU."""
    import torch

    return getattr(torch, name or ("float32" if device.type == "cpu" else "bfloat16"))


def is_verbose(context: typer.Context) -> bool:
    """Whether `ltx-diffusers --verbose` was given."""
    return bool(getattr(context.obj, "verbose", False))


def hush() -> None:
    """Keep warnings and progress bars of the libraries below off the terminal; errors and our own words stay."""
    from diffusers.utils import logging

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_pipeline(
    source: Path | str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    class_name: str = "LTXPipeline",
    text_encoder: str | None = None,
    version: str | None = None,
    vae_memory: int | None = None,
    prompt_cache: Path | None = None,
    keep_text_encoder: str = "always",
    quiet: bool = True,
) -> Any:
    """A pipeline of a model, on its device.

    Args:
        source: What `find_pipeline` found.
        device: Where the models go.
        dtype: Their dtype.
        class_name: Of the pipeline, a key of `_PIPELINES`.
        text_encoder: For a checkpoint file: a folder or repository with a text encoder and its tokenizer.
        version: For a checkpoint file: its release, where it can't tell.
        vae_memory: Bytes that the VAE may take to encode and decode; None sets no limit.
        prompt_cache: Folder where features of prompts are kept; None keeps none.
        keep_text_encoder: How long it stays in memory, see `pipelines.text_keeping`; a checkpoint file's stays.
        quiet: Whether the libraries below are silent.

    Raises:
        InputError: If the model can't be loaded.
    """
    from .setup import set_up

    set_up()
    if quiet:
        from transformers.utils import logging

        hush()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    pipeline_class = getattr(import_module(f"..pipelines.{_PIPELINES[class_name]}", __package__), class_name)
    try:
        if isinstance(source, Path) and source.is_file():
            pipeline = pipeline_class.from_single_file(
                source, version=version, text_encoder=text_encoder, dtype=dtype
            )
        else:
            pipeline = pipeline_class.from_pretrained(
                source, dtype=dtype, keep_text_encoder=keep_text_encoder
            )
        pipeline.to(device)
        if prompt_cache is not None:
            pipeline.enable_prompt_cache(prompt_cache)
    except Exception as error:
        raise _unloadable(source, error) from error
    if vae_memory is not None:
        pipeline.vae.enable_memory_budget(vae_memory)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_loras(pipeline: Any, loras: Sequence[str]) -> None:
    """Load LoRAs into a pipeline, each with its weight.

    Args:
        pipeline: Of this library.
        loras: LORA[:WEIGHT] each: a file, folder or repository.

    Raises:
        InputError: If a weight can't be read, or a LoRA doesn't fit.
    """
    parsed = [parse_lora(text) for text in loras]
    names = [f"lora_{number}" for number in range(len(parsed))]
    for name, (file, _) in zip(names, parsed, strict=True):
        pipeline.load_lora_weights(file, adapter_name=name)
    if parsed:
        pipeline.set_adapters(names, [weight for _, weight in parsed])


def load_vae(
    source: Path | str,
    subfolder: str | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    version: str | None = None,
    quiet: bool = True,
) -> Any:
    """A VAE, on its device.

    Args:
        source: A folder, a repository or a checkpoint file.
        subfolder: Where it is in the folder or repository.
        device: Where it goes.
        dtype: Of its weights.
        version: For a checkpoint file: its release, where it can't tell.
        quiet: Whether the libraries below are silent.

    Raises:
        InputError: If it can't be loaded.
    """
    from .setup import set_up

    set_up()
    if quiet:
        hush()
    from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX

    try:
        if isinstance(source, Path) and source.is_file():
            vae = AutoencoderKLLTX.from_single_file(source, version=version, dtype=dtype)
        else:
            vae = AutoencoderKLLTX.from_pretrained(source, subfolder=subfolder, dtype=dtype)
        return vae.to(device).eval()
    except Exception as error:
        raise _unloadable(source, error) from error


def load_text(
    source: Path | str, *, device: torch.device, dtype: torch.dtype, quiet: bool = True
) -> tuple[Any, Any]:
    """Tokenizer and text encoder of a pipeline's folder or repository, or of their own.

    Raises:
        InputError: If they can't be loaded.
    """
    from .setup import set_up

    set_up()
    if quiet:
        from transformers.utils import logging

        hush()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    from ..pipelines.single_file import load_text_parts

    try:
        encoder, tokenizer = load_text_parts(source, None, dtype, {})
        return tokenizer, encoder.to(device).eval()
    except Exception as error:
        raise _unloadable(source, error) from error


def load_upsampler(
    source: Path | str,
    subfolder: str | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quiet: bool = True,
) -> Any:
    """A latent upsampler, on its device.

    Raises:
        InputError: If it can't be loaded.
    """
    from .setup import set_up

    set_up()
    if quiet:
        hush()
    from ..models.upsamplers.latent_upsampler_ltx import LTXLatentUpsampler

    try:
        if isinstance(source, Path) and source.is_file():
            upsampler = LTXLatentUpsampler.from_single_file(source, dtype=dtype)
        else:
            upsampler = LTXLatentUpsampler.from_pretrained(source, subfolder=subfolder, dtype=dtype)
        return upsampler.to(device).eval()
    except Exception as error:
        raise _unloadable(source, error) from error


def _unloadable(source: Path | str, error: Exception) -> LTXError:
    """One line for whatever the loaders below raise over a user's files."""
    if isinstance(error, LTXError):
        return error
    first_line = str(error).strip().partition("\n")[0]
    return InputError(
        f"the model {source} can't be loaded", got=f"{type(error).__name__}: {first_line[:300]}"
    )
