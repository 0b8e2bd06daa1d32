"""Pipelines from one checkpoint file: transformer, VAE and sampler of the file, text encoder from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, T5EncoderModel

from ..conversion.describe import Checkpoint, describe
from ..conversion.hub_files import find_file
from ..conversion.loading import part_dtype
from ..conversion.single_file import check_options, load_described
from ..conversion.tensors import open_tensors
from ..errors import CheckpointError, InputError
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ..models.transformers.transformer_ltx import LTXTransformer3DModel
from ..schedulers.flow_match import LTXFlowMatchScheduler

if TYPE_CHECKING:
    from .base import LTXPipelineBase


def load_pipeline(
    cls: type[LTXPipelineBase],
    path: str | Path,
    *,
    version: str | None = None,
    text_encoder: PreTrainedModel | str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    vae: Any = None,
    dtype: torch.dtype | None = None,
    fp8: str = "dequantize",
    quantization_config: Any = None,
    device: str | torch.device | None = None,
    allow_pickle: bool = False,
    **hub: Any,
) -> LTXPipelineBase:
    """A pipeline from a checkpoint file; arguments and errors as in `LTXPipelineBase.from_single_file`."""
    check_options(fp8, quantization_config)
    file = find_file(path, **hub)
    # A revision is one of the checkpoint's repository.
    hub = {name: value for name, value in hub.items() if name != "revision"}
    with open_tensors(file, allow_pickle=allow_pickle) as source:
        checkpoint = describe(source, version=version)
        scheduler = LTXFlowMatchScheduler(**_sampler(checkpoint))
        if vae is None and "vae" not in checkpoint.parts:
            raise CheckpointError(
                f"{file} has no VAE", fix="pass vae=, a model, or a file, folder or repository with one"
            )
        # What comes from elsewhere has the transformer's precision. The texts come first: what is missing there is
        # found before the large models are read.
        elsewhere = dtype or part_dtype(checkpoint.part("transformer"), source)
        encoder, words = load_text_parts(text_encoder, tokenizer, elsewhere, hub)
        if vae is None:
            autoencoder = load_described(AutoencoderKLLTX, checkpoint, source, checkpoint.part("vae"), dtype)
        else:
            autoencoder = _other_vae(vae, version, elsewhere, allow_pickle, hub)
        transformer = load_described(
            LTXTransformer3DModel,
            checkpoint,
            source,
            checkpoint.part("transformer"),
            dtype,
            fp8,
            quantization_config,
            device,
        )
    if device is not None:
        autoencoder.to(device)
        if encoder is not None:
            encoder.to(device)
    pipeline = cls(
        scheduler=scheduler,
        vae=autoencoder,
        text_encoder=encoder,
        tokenizer=words,
        transformer=transformer,
    )
    pipeline.register_to_config(_name_or_path=str(path))
    return pipeline


def _sampler(checkpoint: Checkpoint) -> dict[str, Any]:
    """The sampler's config, once it is clear that there is something to sample with."""
    checkpoint.part("transformer")
    return checkpoint.sampler_config()


def _other_vae(
    vae: Any, version: str | None, dtype: torch.dtype, allow_pickle: bool, hub: dict[str, Any]
) -> Any:
    """A VAE that was given, or loaded where it was named: a folder or repository, or a file."""
    if not isinstance(vae, (str, Path)):
        return vae
    is_repository = str(vae).count("/") == 1 and not Path(vae).expanduser().exists()
    if _folder_of(vae, "vae") is not None or is_repository:
        return _from_pretrained(AutoencoderKLLTX, vae, "vae", hub, dtype=dtype)
    return AutoencoderKLLTX.from_single_file(
        vae, version=version, dtype=dtype, allow_pickle=allow_pickle, **hub
    )


def load_text_parts(
    text_encoder: Any, tokenizer: Any, dtype: torch.dtype, hub: dict[str, Any]
) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase | None]:
    """Text encoder and tokenizer, loaded if they were named; a tokenizer that wasn't, from beside the encoder.

    Args:
        text_encoder: A model, or a folder or repository with one: a pipeline's, or its own.
        tokenizer: Likewise; None looks where the encoder is.
        dtype: Of the encoder.
        hub: Arguments for the Hub.

    Raises:
        InputError: If one can't be found, or the encoder has no tokenizer.
    """
    if tokenizer is None and isinstance(text_encoder, (str, Path)):
        tokenizer = text_encoder
    if text_encoder is not None and tokenizer is None:
        raise InputError("a text encoder needs its tokenizer", fix="pass tokenizer=")
    encoder = text_encoder
    if isinstance(text_encoder, (str, Path)):
        encoder = _from_pretrained(T5EncoderModel, text_encoder, "text_encoder", hub, dtype=dtype)
    words = tokenizer
    if isinstance(tokenizer, (str, Path)):
        words = _from_pretrained(AutoTokenizer, tokenizer, "tokenizer", hub)
    return encoder, words


def _from_pretrained(cls: Any, place: str | Path, name: str, hub: dict[str, Any], **options: Any) -> Any:
    """A component out of a folder or repository: of a pipeline, or its own."""
    folder = _folder_of(place, name)
    if folder is not None:
        attempts = [(folder, {"local_files_only": True})]
    else:
        attempts = [(str(place), {"subfolder": name, **hub}), (str(place), hub)]
    problem = ""
    for where, arguments in attempts:
        try:
            return cls.from_pretrained(where, **arguments, **options)
        except (OSError, ValueError) as error:
            problem = str(error).splitlines()[0][:200]
    raise InputError(
        f"no {name.replace('_', ' ')} found",
        got=str(place),
        expected=f"a folder or repository with a {name.replace('_', ' ')}",
        fix=f"({problem})",
    )


def _folder_of(place: str | Path, name: str) -> Path | None:
    """The folder of a component: inside a pipeline's, or `place` itself; None if that is no folder."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return None
    return folder / name if (folder / name).is_dir() else folder
