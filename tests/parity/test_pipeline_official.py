"""Whole calls against the official pipeline: one checkpoint of its models, loaded by both, step by step the same.

Random draws are made equal: ours draws noise for tokens as the official pipeline does, encoders give their mean, and
what the official code draws without a seed is replaced by one fixed draw in both.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from helpers.transformers import OFFICIAL
from safetensors.torch import save_file

from ltx_diffusers import LTXConditionPipeline, LTXLatentUpsampler, VideoCondition
from ltx_diffusers.denoising.guidance import (
    ClassifierFreeGuidance,
    GuidanceByLevel,
    SpatioTemporalGuidance,
)
from ltx_diffusers.functional.latents import unpack_latents
from ltx_diffusers.pipelines import base, decoding
from ltx_diffusers.pipelines.two_stage import generate_in_two_stages
from ltx_diffusers.schedulers import flow_match

official = pytest.importorskip("ltx_video.pipelines.pipeline_ltx_video")
transformer3d = pytest.importorskip("ltx_video.models.transformers.transformer3d")
autoencoder = pytest.importorskip("ltx_video.models.autoencoders.causal_video_autoencoder")
upsamplers = pytest.importorskip("ltx_video.models.autoencoders.latent_upsampler")
patchifier = pytest.importorskip("ltx_video.models.transformers.symmetric_patchifier")
rf = pytest.importorskip("ltx_video.schedulers.rf")
Strategy = pytest.importorskip("ltx_video.utils.skip_layer_strategy").SkipLayerStrategy

TOLERANCE = 1e-4
CHANNELS, TEXT, FRAME_RATE = 8, 12, 25
HEIGHT, WIDTH, FRAMES = 64, 96, 33
TRANSFORMER = OFFICIAL | {
    "_class_name": "Transformer3DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_layers": 3,
    "cross_attention_dim": 32,
    "caption_channels": TEXT,
    "num_embeds_ada_norm": 1000,
    "adaptive_norm": "single_scale_shift",
    "causal_temporal_positioning": True,
}
UP = ["compress_all", {"residual": True, "multiplier": 2}]
VAE = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "latent_channels": CHANNELS,
    "encoder_blocks": [
        ["res_x", 1], ["compress_space_res", {"multiplier": 2}], ["res_x", 1],
        ["compress_time_res", {"multiplier": 2}], ["res_x", 1], ["compress_all_res", {"multiplier": 2}],
        ["res_x", 1], ["compress_all_res", {"multiplier": 2}], ["res_x", 1],
    ],
    "decoder_blocks": [["res_x", 1], UP, ["res_x", 1], UP, ["res_x", 1], UP, ["res_x", 1]],
    "encoder_base_channels": 8,
    "decoder_base_channels": 8,
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "use_quant_conv": False,
    "causal_decoder": False,
    "timestep_conditioning": True,
}  # fmt: skip
SCHEDULER = {
    "_class_name": "RectifiedFlowScheduler",
    "num_train_timesteps": 1000,
    "sampler": "LinearQuadratic",
}
UPSAMPLER = {"in_channels": CHANNELS, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the official models in one file."""
    path = tmp_path_factory.mktemp("official") / "tiny.safetensors"
    torch.manual_seed(0)
    transformer = transformer3d.Transformer3DModel.from_config(TRANSFORMER)
    vae = autoencoder.CausalVideoAutoencoder.from_config(VAE)
    tensors = {f"model.diffusion_model.{name}": value for name, value in transformer.state_dict().items()}
    tensors |= {f"vae.{name}": value for name, value in vae.state_dict().items()}
    tensors["vae.per_channel_statistics.mean-of-means"] = 0.2 * torch.randn(CHANNELS)
    tensors["vae.per_channel_statistics.std-of-means"] = 0.8 + 0.4 * torch.rand(CHANNELS)
    config = {"transformer": TRANSFORMER, "vae": VAE, "scheduler": SCHEDULER}
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, path, {"config": json.dumps(config)}
    )
    return path


@pytest.fixture(scope="module")
def theirs(checkpoint: Path):
    pipeline = official.LTXVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=autoencoder.CausalVideoAutoencoder.from_pretrained(checkpoint).eval(),
        transformer=transformer3d.Transformer3DModel.from_pretrained(checkpoint).eval(),
        scheduler=rf.RectifiedFlowScheduler.from_pretrained(checkpoint),
        patchifier=patchifier.SymmetricPatchifier(1),
        prompt_enhancer_image_caption_model=None,
        prompt_enhancer_image_caption_processor=None,
        prompt_enhancer_llm_model=None,
        prompt_enhancer_llm_tokenizer=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def ours(checkpoint: Path) -> LTXConditionPipeline:
    pipeline = LTXConditionPipeline.from_single_file(checkpoint, version="0.9.5")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(autouse=True)
def the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    def noise_of_tokens(shape, generator, device, dtype):
        batch, channels, *size = shape
        tokens = torch.randn(batch, size[0] * size[1] * size[2], channels, generator=generator, dtype=dtype)
        return unpack_latents(tokens, *size)

    def fixed(like: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(99), dtype=like.dtype)

    monkeypatch.setattr(base, "randn_tensor", noise_of_tokens)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    monkeypatch.setattr(torch, "randn_like", fixed)
    monkeypatch.setattr(flow_match, "draw_noise", lambda sample, generator: fixed(sample))


def texts() -> dict:
    generator = torch.Generator().manual_seed(5)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    return {
        "prompt_embeds": torch.randn(1, 6, TEXT, generator=generator),
        "negative_prompt_embeds": torch.randn(1, 6, TEXT, generator=generator),
        "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask.flip(1),
    }


def clip(frames: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """(1, 3, F, H, W) in [-1, 1]."""
    return 2 * torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(seed)) - 1


def as_pictures(pixels: torch.Tensor) -> list[torch.Tensor]:
    return list((pixels[0].transpose(0, 1) + 1) / 2)


def given(pixels: torch.Tensor, frame: int, strength: float) -> tuple:
    """The same condition for both."""
    pictures = as_pictures(pixels)
    medium = {"image": pictures[0]} if len(pictures) == 1 else {"video": pictures}
    return (
        official.ConditioningItem(pixels, frame, strength),
        VideoCondition(**medium, frame_index=frame, strength=strength),
    )


CONDITIONS: dict[str, list[tuple]] = {
    "text to video": [],
    "first frame": [(clip(1), 0, 1.0)],
    "first frame of strength 0.5": [(clip(1), 0, 0.5)],
    "keyframe in the middle": [(clip(1), 13, 1.0)],
    "clip at the start": [(clip(17), 0, 1.0)],
    "clip at the start of strength 0.5": [(clip(17), 0, 0.5)],
    "clip at the end": [(clip(17), 16, 1.0)],
    "mixture": [(clip(1), 0, 1.0), (clip(1, 1), 13, 1.0), (clip(9, 2), 24, 1.0)],
}

# The official arguments, and our guidance for them.
GUIDANCE: dict[str, tuple[dict, object]] = {
    "none": ({"guidance_scale": 1.0, "stg_scale": 0.0}, ClassifierFreeGuidance(1.0)),
    "cfg": ({"guidance_scale": 3.0, "stg_scale": 0.0}, ClassifierFreeGuidance(3.0)),
    "cfg star": (
        {"guidance_scale": 3.0, "stg_scale": 0.0, "cfg_star_rescale": True},
        ClassifierFreeGuidance(3.0, star=True),
    ),
    **{
        mode: (
            {"guidance_scale": 3.0, "stg_scale": 1.0, "rescaling_scale": 0.7, "skip_layer_strategy": strategy,
             "skip_block_list": [1]},
            SpatioTemporalGuidance(3.0, 0.7, stg_scale=1.0, stg_blocks=(1,), stg_mode=mode),
        )
        for mode, strategy in (
            ("attention-values", Strategy.AttentionValues),
            ("attention-skip", Strategy.AttentionSkip),
            ("transformer-block", Strategy.TransformerBlock),
        )
    },
    "by level": (
        {
            "guidance_scale": [1, 6, 3], "stg_scale": [0, 4, 1], "rescaling_scale": [1, 0.5, 1],
            "guidance_timesteps": [1.0, 0.96, 0.5], "skip_block_list": [[], [0, 2], [1]],
            "skip_layer_strategy": Strategy.AttentionValues, "cfg_star_rescale": True,
        },
        GuidanceByLevel(
            [1.0, 0.96, 0.5],
            [
                SpatioTemporalGuidance(1, 0.0, star=True, stg_scale=0),
                SpatioTemporalGuidance(6, 0.5, star=True, stg_scale=4, stg_blocks=(0, 2)),
                SpatioTemporalGuidance(3, 0.0, star=True, stg_scale=1, stg_blocks=(1,)),
            ],
        ),
    ),
}  # fmt: skip


def run_both(
    theirs,
    ours,
    conditions,
    guidance: str = "cfg",
    *,
    same: dict | None = None,
    only_theirs: dict | None = None,
    only_ours: dict | None = None,
    outputs: tuple[str, ...] = ("latent",),
) -> None:
    """Compare one call of each.

    Args:
        conditions: (pixels, frame, strength) of each condition.
        guidance: A key of `GUIDANCE`.
        same: Arguments that both take by the same name.
        only_theirs: Further arguments of the official pipeline.
        only_ours: Further arguments of ours.
        outputs: Output types that are compared.
    """
    their_guidance, our_guidance = GUIDANCE[guidance]
    pairs = [given(*entry) for entry in conditions]
    shared = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "frame_rate": FRAME_RATE,
              "num_inference_steps": 6, "decode_timestep": 0.05, **(same or {}), **texts()}  # fmt: skip
    expected = {}
    for output_type in outputs:
        expected[output_type] = theirs(
            **shared | {"decode_noise_scale": 0.025},
            prompt=None,
            negative_prompt=None,
            conditioning_items=[pair[0] for pair in pairs] or None,
            generator=torch.Generator().manual_seed(1),
            output_type=output_type,
            is_video=True,
            vae_per_channel_normalize=True,
            mixed_precision=False,
            **their_guidance,
            **(only_theirs or {}),
        ).images
    arguments = {
        **shared,
        "conditions": [pair[1] for pair in pairs],
        "guidance": our_guidance,
        "image_cond_noise_scale": 0.0,
        "decode_noise_scale": 0.025,
        **(only_ours or {}),
    }
    for output_type, reference in expected.items():
        generator = torch.Generator().manual_seed(1)
        result = ours(**arguments, generator=generator, output_type=output_type).frames
        if output_type == "pt":
            result = result.transpose(1, 2)
        assert reference.std() > 0.01
        torch.testing.assert_close(result, reference, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions(theirs, ours, name: str) -> None:
    run_both(theirs, ours, CONDITIONS[name])


@pytest.mark.parametrize("name", GUIDANCE)
def test_guidance(theirs, ours, name: str) -> None:
    run_both(theirs, ours, CONDITIONS["first frame"], name)


def test_the_decoded_video(theirs, ours, monkeypatch) -> None:
    """With tone mapping, and the decoder's noise the same in both."""
    monkeypatch.setattr(decoding, "randn_tensor", lambda shape, *args: torch.randn_like(torch.empty(shape)))
    tone = {"only_theirs": {"tone_map_compression_ratio": 0.6}, "only_ours": {"tone_map_compression": 0.6}}
    run_both(theirs, ours, CONDITIONS["mixture"], outputs=("latent", "pt"), **tone)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_stochastic_sampling_of_distilled_models(theirs, ours, monkeypatch, strength: float) -> None:
    scheduler = flow_match.LTXFlowMatchScheduler.from_config(ours.scheduler.config, stochastic_sampling=True)
    monkeypatch.setattr(ours, "scheduler", scheduler)
    run_both(theirs, ours, [(clip(1), 0, strength)], "none", only_theirs={"stochastic_sampling": True})


def test_explicit_levels(theirs, ours) -> None:
    levels = [1.0, 0.9, 0.7, 0.5, 0.2]
    listed = {"only_theirs": {"timesteps": levels}, "only_ours": {"sigmas": levels}}
    run_both(theirs, ours, CONDITIONS["first frame"], same={"num_inference_steps": None}, **listed)


def test_skipped_final_steps(theirs, ours) -> None:
    run_both(theirs, ours, CONDITIONS["first frame"], same={"skip_final_inference_steps": 2})


def test_a_start_from_a_video(theirs, ours) -> None:
    video = clip(FRAMES, 3)
    run_both(
        theirs,
        ours,
        CONDITIONS["keyframe in the middle"],
        same={"skip_initial_inference_steps": 3},
        only_theirs={"media_items": video},
        only_ours={"initial_video": as_pictures(video)},
    )


def test_two_stages(theirs, ours, monkeypatch) -> None:
    torch.manual_seed(4)
    upsampler = upsamplers.LatentUpsampler(**UPSAMPLER).eval()
    own_upsampler = LTXLatentUpsampler(**UPSAMPLER).eval()
    own_upsampler.load_state_dict(upsampler.state_dict())
    monkeypatch.setattr(type(upsampler), "device", torch.device("cpu"), raising=False)
    # Of one colour, because the official code resizes by another filter.
    item, condition = given(torch.full((1, 3, 1, 96, 192), 0.3), 0, 1.0)
    levels = ([1.0, 0.8, 0.4], [0.7, 0.3])
    call = {"num_frames": 17, "frame_rate": FRAME_RATE, "decode_timestep": 0.05, **texts()}
    shared = {"guidance_scale": 1.0, "stg_scale": 0.0}
    for output_type in ("latent", "pt"):
        expected = official.LTXMultiScalePipeline(theirs, upsampler)(
            2 / 3,
            {**shared, "timesteps": levels[0]},
            {**shared, "timesteps": levels[1], "tone_map_compression_ratio": 0.6},
            prompt=None,
            negative_prompt=None,
            num_inference_steps=None,
            height=96,
            width=192,
            conditioning_items=[item],
            decode_noise_scale=0.025,
            generator=torch.Generator().manual_seed(1),
            output_type=output_type,
            is_video=True,
            vae_per_channel_normalize=True,
            mixed_precision=False,
            **call,
        ).images
        monkeypatch.setattr(
            decoding, "randn_tensor", lambda shape, *args: torch.randn_like(torch.empty(shape))
        )
        result = generate_in_two_stages(
            ours,
            own_upsampler,
            height=96,
            width=192,
            conditions=condition,
            guidance=ClassifierFreeGuidance(1.0),
            first={"sigmas": levels[0]},
            second={"sigmas": levels[1], "tone_map_compression": 0.6},
            image_cond_noise_scale=0.0,
            decode_noise_scale=0.025,
            generator=torch.Generator().manual_seed(1),
            output_type=output_type,
            **call,
        ).frames
        result = result if output_type == "latent" else result.transpose(1, 2)
        assert result.shape == expected.shape
        torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=TOLERANCE)
