"""The models that a transformer's training begins with: built anew, or those of a pipeline, in few bits if wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.moving_shapes import vocabulary
from ..embedded import embedded_model_path
from ..errors import InputError, LTXError
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ..models.transformers.transformer_ltx import LTXTransformer3DModel
from ..pipelines.pipeline_ltx import LTXPipeline
from ..schedulers.flow_match import LTXFlowMatchScheduler
from .config import build, load_part
from .text import build_text_encoder, build_word_tokenizer
from .transformer_config import TransformerTrainConfig

_EMBEDDED = "embedded"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}


@dataclass
class BaseModel:
    """The parts of a pipeline before training.

    Attributes:
        transformer: The transformer.
        vae: Not trained.
        text_encoder: T5 encoder; None if there is none or it wasn't wanted.
        tokenizer: Its tokenizer, likewise.
        scheduler: For sampling.
        repository: Where it comes from, if that is a repository of the Hub.
    """

    transformer: LTXTransformer3DModel
    vae: AutoencoderKLLTX
    text_encoder: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase | None
    scheduler: LTXFlowMatchScheduler
    repository: str | None = None


def open_base_model(config: TransformerTrainConfig, *, with_text: bool = True) -> BaseModel:
    """Build or load what a config begins with.

    Args:
        config: Settings of the run.
        with_text: Whether the text encoder is needed.

    Raises:
        InputError: If a setting is unknown, or something isn't there or can't be loaded.
    """
    vae = None
    if config.vae is not None:
        vae = load_part(AutoencoderKLLTX, config.vae, "vae")
    torch.manual_seed(config.seed)
    base = _build(config, vae) if config.initial_weights is None else _load(config, vae, with_text)
    base.vae.requires_grad_(False).eval()
    if base.text_encoder is not None and not config.trains_text_encoder:
        base.text_encoder.requires_grad_(False).eval()
    if base.transformer.config.causal_temporal_positioning is None:
        raise InputError(
            "the transformer to train must state its time coordinates",
            fix="set model.causal_temporal_positioning=true (as 0.9.5 and later) or false",
        )
    if config.base_storage == "fp8":
        base.transformer.enable_layerwise_casting(torch.float8_e4m3fn, getattr(torch, config.base_dtype))
    if config.attention_backend is not None:
        try:
            base.transformer.set_attention_backend(config.attention_backend)
        except (ValueError, RuntimeError, ImportError) as error:
            raise InputError(
                "config key 'attention_backend' can't be used", got=config.attention_backend, fix=str(error)
            ) from None
    if config.conditions.region:
        base.transformer.register_to_config(regions_hidden=True)
    return base


def _build(config: TransformerTrainConfig, vae: AutoencoderKLLTX) -> BaseModel:
    """Random weights, for the procedural world's words."""
    tokenizer = build_word_tokenizer(vocabulary(), config.text_length)
    text_encoder = build_text_encoder(tokenizer, config.text_encoder)
    transformer = build(LTXTransformer3DModel, config.model, "model")
    scheduler = build(LTXFlowMatchScheduler, config.scheduler, "scheduler")
    return BaseModel(transformer, vae, text_encoder, tokenizer, scheduler)


def _load(config: TransformerTrainConfig, vae: AutoencoderKLLTX | None, with_text: bool) -> BaseModel:
    source = str(embedded_model_path()) if config.initial_weights == _EMBEDDED else config.initial_weights
    path = Path(source).expanduser()
    options: dict[str, Any] = {"dtype": getattr(torch, config.base_dtype)}
    if vae is not None:
        options["vae"] = vae
    if config.random_weights:
        options["transformer"] = build(LTXTransformer3DModel, config.model, "model")
    quantization = _quantization(config)
    try:
        if path.is_file():
            pipeline = _from_file(path, config, options, quantization, with_text)
        else:
            _check_file_settings(config, source)
            if not path.is_dir() and not _REPOSITORY.fullmatch(source):
                raise InputError(
                    "config key 'initial_weights': no such folder, file or repository", got=source
                )
            pipeline = _from_folder(source, options, quantization, with_text)
    except LTXError:
        raise
    except Exception as error:  # the libraries below have no common base for what is wrong with files
        raise InputError(
            f"config key 'initial_weights': {source} can't be loaded",
            got=str(error).strip().partition("\n")[0][:300],
        ) from error
    scheduler = pipeline.scheduler
    if config.scheduler:
        scheduler = build(LTXFlowMatchScheduler, config.scheduler, "scheduler")
    if with_text and pipeline.text_encoder is None:
        raise InputError(
            "config key 'initial_weights': there is no text encoder in it",
            got=source,
            fix="give initial_text_encoder, a folder or repository with T5 and its tokenizer",
        )
    return BaseModel(
        pipeline.transformer,
        pipeline.vae,
        pipeline.text_encoder,
        pipeline.tokenizer,
        scheduler,
        source if _REPOSITORY.fullmatch(source) and not path.exists() else None,
    )


def _check_file_settings(config: TransformerTrainConfig, source: str) -> None:
    """Raise `InputError` for what only a checkpoint file lacks."""
    for key in ("initial_text_encoder", "release"):
        if getattr(config, key) is not None:
            raise InputError(
                f"config key {key!r} goes with a checkpoint file",
                got=f"initial_weights: {source}",
                fix="leave it out",
            )


def _from_folder(source: str, options: dict[str, Any], quantization: Any, with_text: bool) -> LTXPipeline:
    if quantization is not None:
        from diffusers import PipelineQuantizationConfig

        # Loaded with the others, so that what its config leaves out follows from them.
        options["quantization_config"] = PipelineQuantizationConfig(
            quant_mapping={"transformer": quantization}
        )
    if not with_text:
        options |= {"text_encoder": None, "tokenizer": None}
    return LTXPipeline.from_pretrained(source, **options)


def _from_file(
    path: Path, config: TransformerTrainConfig, options: dict[str, Any], quantization: Any, with_text: bool
) -> LTXPipeline:
    if quantization is not None:
        options["quantization_config"] = quantization
    if with_text:
        options["text_encoder"] = config.initial_text_encoder
    return LTXPipeline.from_single_file(path, version=config.release, **options)


def _quantization(config: TransformerTrainConfig) -> Any:
    """Diffusers' quantisation of the transformer; None for weights of floating-point types."""
    package = _PACKAGES.get(config.base_storage or "")
    if package is None:
        return None
    if find_spec(package) is None:
        raise InputError(
            f"config key 'base_storage': {config.base_storage!r} needs the package {package}",
            fix=f"pip install {package}, or base_storage=fp8",
        )
    if config.base_storage == "nf4":
        from diffusers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=getattr(torch, config.base_dtype),
        )
    from diffusers import TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())
