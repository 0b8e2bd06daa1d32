"""A tiny random LTX-Video: components small enough to run a pipeline in a fraction of a second."""

from __future__ import annotations

import functools

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from ltx_diffusers import AutoencoderKLLTX, LTXFlowMatchScheduler, LTXTransformer3DModel
from ltx_diffusers.schedulers.foreign_configs import from_diffusers

LATENT_CHANNELS = 8
TEXT_CHANNELS = 16
WORDS = """
    a red green blue circle square triangle moves left right up down on white black wall the
""".split()  # noqa: SIM905

SHIFTED_SCHEDULER = {
    "use_dynamic_shifting": True,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "shift_terminal": 0.1,
}
"""What Diffusers' converter writes for 0.9.0 and 0.9.1."""


@functools.cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words for tokens, with T5's marks: padding 0, end 1, unknown 2."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_text_encoder() -> T5EncoderModel:
    """A T5 encoder of one layer."""
    config = T5Config(
        vocab_size=3 + len(WORDS),
        d_model=TEXT_CHANNELS,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return T5EncoderModel(config).eval()


def transformer_config() -> dict:
    """Settings of a transformer of width 16 and two blocks."""
    return {
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "num_layers": 2,
        "caption_channels": TEXT_CHANNELS,
    }


def vae_config(timestep_conditioning: bool, version: str) -> dict:
    """Settings of a VAE with the true compression: 8 frames, 32 rows and columns.

    The kind of 0.9.0 and 0.9.1 takes 3 stages of conv downsampling; that of 0.9.5 has residual downsamplers.
    """
    common = {
        "latent_channels": LATENT_CHANNELS,
        "timestep_conditioning": timestep_conditioning,
        "patch_size": 4,
        "spatial_compression_ratio": 32,
        "temporal_compression_ratio": 8,
    }
    if version == "0.9.5":
        return common | {
            "block_out_channels": (8, 8, 8, 16, 16),
            "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
            "layers_per_block": (1, 1, 1, 1, 1),
            "spatio_temporal_scaling": (True,) * 4,
            "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
            "decoder_block_out_channels": (8, 16, 32),
            "decoder_layers_per_block": (1, 1, 1, 1),
            "decoder_spatio_temporal_scaling": (True,) * 3,
            "decoder_inject_noise": (False,) * 4,
            "upsample_residual": (True,) * 3,
            "upsample_factor": (2,) * 3,
        }
    return common | {
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("LTXVideoDownBlock3D",) * 4,
        "layers_per_block": (1, 1, 1, 1, 1),
        "spatio_temporal_scaling": (True, True, True, False),
        "downsample_type": ("conv",) * 4,
        "decoder_block_out_channels": (8, 8, 8, 8),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "decoder_spatio_temporal_scaling": (True, True, True, False),
        "decoder_inject_noise": (False,) * 5,
        "upsample_residual": (False,) * 4,
        "upsample_factor": (1,) * 4,
    }


def tiny_components(
    timestep_conditioning: bool = False,
    causal: bool = False,
    ours: bool = True,
    statistics: bool = False,
    seed: int = 0,
) -> dict:
    """Components of a pipeline, with random weights that depend on `seed` only.

    Args:
        timestep_conditioning: Whether the decoder takes noise and a noise level (0.9.1 and later).
        causal: The kind of 0.9.5 (causal coordinates, linear-quadratic, its VAE) instead of 0.9.0 and 0.9.1.
        ours: Our classes, or Diffusers' with the same weights and settings.
        statistics: Random latent statistics instead of mean 0 and deviation 1.
        seed: Of the weights.
    """
    torch.manual_seed(seed)
    transformer = LTXVideoTransformer3DModel(**transformer_config()).eval()
    vae = AutoencoderKLLTXVideo(**vae_config(timestep_conditioning, "0.9.5" if causal else "0.9.0")).eval()
    if statistics:
        vae.latents_mean.normal_()
        vae.latents_std.uniform_(0.5, 2)
    scheduler = FlowMatchEulerDiscreteScheduler(**({} if causal else SHIFTED_SCHEDULER))
    text_encoder = tiny_text_encoder()
    if ours:
        transformer = _same_weights(
            transformer, LTXTransformer3DModel(**transformer_config(), causal_temporal_positioning=causal)
        )
        vae = _same_weights(
            vae, AutoencoderKLLTX(**vae_config(timestep_conditioning, "0.9.5" if causal else "0.9.0"))
        )
        changes = {"schedule": "linear-quadratic"} if causal else {}
        scheduler = LTXFlowMatchScheduler.from_config(from_diffusers(scheduler.config), **changes)
    return {
        "scheduler": scheduler,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tiny_tokenizer(),
        "transformer": transformer,
    }


def _same_weights(source: torch.nn.Module, target: torch.nn.Module) -> torch.nn.Module:
    target.load_state_dict(source.state_dict())
    return target.eval()
