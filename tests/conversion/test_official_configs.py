"""Official configs to ours and back; what ours can't compute is refused."""

from __future__ import annotations

import pytest

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.conversion.model_classes import build_empty
from ltx_diffusers.conversion.official_configs import (
    scheduler_from_official,
    scheduler_to_official,
    transformer_from_official,
    transformer_to_official,
    upsampler_from_official,
    upsampler_to_official,
    vae_from_official,
    vae_to_official,
)
from ltx_diffusers.conversion.releases import RELEASES
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.errors import CheckpointError
from ltx_diffusers.models.autoencoders.released import RELEASED as VAES

# As it stands in the official repository for 0.9.0, which states no causal coordinates.
TRANSFORMER = {
    "_class_name": "Transformer3DModel",
    "_diffusers_version": "0.25.1",
    "_name_or_path": "PixArt-alpha/PixArt-XL-2-256x256",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 64,
    "attention_type": "default",
    "caption_channels": 4096,
    "cross_attention_dim": 2048,
    "double_self_attention": False,
    "dropout": 0.0,
    "in_channels": 128,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "num_attention_heads": 32,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 128,
    "project_to_2d_pos": True,
    "upcast_attention": False,
    "use_linear_projection": False,
    "qk_norm": "rms_norm",
    "standardization_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000,
}
VAE_090 = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "blocks": [
        ["res_x", 4], ["compress_all", 1], ["res_x_y", 1],
        ["res_x", 3], ["compress_all", 1], ["res_x_y", 1],
        ["res_x", 3], ["compress_all", 1], ["res_x", 3], ["res_x", 4],
    ],
    "scaling_factor": 1.0,
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "use_quant_conv": False,
    "causal_decoder": False,
}  # fmt: skip
UP = ["compress_all", {"residual": True, "multiplier": 2}]
VAE_095 = VAE_090 | {
    "blocks": None,
    "encoder_blocks": [
        ["res_x", {"num_layers": 4}], ["compress_space_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 6}], ["compress_time_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 6}], ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}], ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
    ],
    "decoder_blocks": [
        ["res_x", {"num_layers": 5, "inject_noise": False}], UP,
        ["res_x", {"num_layers": 5, "inject_noise": False}], UP,
        ["res_x", {"num_layers": 5, "inject_noise": False}], UP,
        ["res_x", {"num_layers": 5, "inject_noise": False}],
    ],
    "timestep_conditioning": True,
    "normalize_latent_channels": False,
    "encoder_base_channels": 128,
    "decoder_base_channels": 128,
    "spatial_padding_mode": "zeros",
}  # fmt: skip


def full(kind: str, config: dict) -> dict:
    """A config as our class completes it, without Diffusers' own entries."""
    built = build_empty(kind, config).config
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in built.items()}
    return {name: value for name, value in listed.items() if not name.startswith("_")}


@pytest.mark.parametrize("causal", [None, False, True])
def test_the_released_transformer_s_config_is_ours(causal):
    official = TRANSFORMER | ({} if causal is None else {"causal_temporal_positioning": causal})
    ours = transformer_from_official(official)
    expected = full("transformer", {})
    assert full("transformer", ours) == expected | {"causal_temporal_positioning": bool(causal)}
    # Complete: nothing is left to our defaults but what only pipelines read.
    assert {name for name in expected if name not in ours} == {
        "temporal_compression_ratio",
        "spatial_compression_ratio",
        "default_height",
        "default_width",
        "default_num_frames",
        "default_frame_rate",
        "regions_hidden",
    }
    back = transformer_to_official(full("transformer", ours))
    assert transformer_from_official(back) == ours
    assert {name: back[name] for name in official if name in back} == {
        name: value for name, value in official.items() if name in back
    }


@pytest.mark.parametrize(("version", "official"), [("0.9.0", VAE_090), ("0.9.5", VAE_095)])
def test_the_released_vaes_configs_are_ours(version, official):
    ours = vae_from_official(official)
    assert full("vae", ours) == full("vae", VAES[version])
    assert vae_from_official(vae_to_official(full("vae", ours))) == ours


@pytest.mark.parametrize("version", VAES)
def test_our_released_vaes_go_there_and_back(version):
    config = full("vae", VAES[version])
    assert full("vae", vae_from_official(vae_to_official(config))) == config


def test_the_embedded_vae_has_an_official_form():
    """Other structures than the released ones are expressed, too."""
    config = AutoencoderKLLTX.load_config(embedded_model_path() / "vae")
    own = {name: value for name, value in config.items() if not name.startswith("_")}
    back = vae_from_official(vae_to_official(own))
    unstated = {
        "default_decode_noise_scale": own["default_decode_noise_scale"]
    }  # the official class has no such field
    assert full("vae", back | unstated) == full("vae", own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positional_embedding_theta": 100.0}, "positional_embedding_theta; got 100.0; expected 10000.0"),
        ({"positional_embedding_max_pos": [20, 1024, 1024]}, "positional_embedding_max_pos"),
        ({"positional_embedding_type": "absolute"}, "positional_embedding_type"),
        ({"qk_norm": None}, "qk_norm; got None; expected 'rms_norm'"),
        ({"standardization_norm": "layer_norm"}, "standardization_norm"),
        ({"timestep_scale_multiplier": 1}, "timestep_scale_multiplier"),
        ({"adaptive_norm": "single_scale"}, "adaptive_norm"),
        ({"only_cross_attention": True}, "only_cross_attention"),
        ({"activation_fn": "geglu"}, "activation_fn; got geglu"),
        ({"cross_attention_dim": 1024}, "cross_attention_dim; got 1024"),
        ({"caption_channels": None}, "lacks caption_channels"),
        ({"num_layers": "28"}, "num_layers; got 28; expected a positive whole number"),
        ({"num_layers": 2**40}, "num_layers"),
        ({"rope_type": "split"}, "after LTX-Video 0.9.8; got rope_type = split"),
    ],
)
def test_a_transformer_that_ours_isn_t_is_refused(change, message):
    with pytest.raises(CheckpointError) as error:
        transformer_from_official(TRANSFORMER | change)
    assert message in str(error.value)


def test_a_missing_field_has_the_official_default():
    """The official class's defaults aren't ours: a config that leaves these out is another model."""
    for name in ("qk_norm", "standardization_norm", "activation_fn", "timestep_scale_multiplier"):
        with pytest.raises(CheckpointError, match=name):
            transformer_from_official({key: value for key, value in TRANSFORMER.items() if key != name})
    short = {key: value for key, value in TRANSFORMER.items() if key != "attention_bias"}
    assert transformer_from_official(short)["attention_bias"] is False


def test_unknown_fields_are_passed_over_as_officially(caplog):
    expected = transformer_from_official(TRANSFORMER)
    assert transformer_from_official(TRANSFORMER | {"rope_type": None, "experiment": False}) == expected
    assert not caplog.records
    assert transformer_from_official(TRANSFORMER | {"experiment": "a"}) == expected
    assert "isn't known and not used: experiment = a" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": 2}, "dims; got 2; expected 3"),
        ({"norm_layer": "group_norm"}, "norm_layer"),
        ({"latent_log_var": "per_channel"}, "latent_log_var"),
        ({"use_quant_conv": True}, "use_quant_conv"),
        ({"normalize_latent_channels": True}, "normalize_latent_channels"),
        ({"spatial_padding_mode": "reflect"}, "spatial_padding_mode"),
        ({"latent_channels": None}, "latent_channels"),
        ({"encoder_blocks": []}, "lacks its blocks"),
        ({"encoder_blocks": [["res_x", 1], ["res_x", 10**6]]}, "num_layers = 1000000"),
        ({"encoder_blocks": [["res_x", 1]] * 1000}, "lacks its blocks"),
        ({"encoder_blocks": [["attn_res_x", 1], ["res_x", 1]]}, "can't build a block"),
        ({"encoder_blocks": [["compress_all", 1], ["res_x", 1]]}, "can't build the VAE's list"),
        ({"encoder_blocks": [["res_x", 1], ["compress_all", 1]]}, "can't build the VAE's list"),
        ({"encoder_blocks": [["res_x", {"num_layers": 1, "norm": "x"}], ["res_x", 1]]}, "can't build a block"),
        # A change of channels before the middle block, and behind a downsampler that changes them itself.
        (
            {"encoder_blocks": [["res_x", 1], ["compress_all", 1], ["res_x_y", 1], ["res_x", 1]]},
            "can't build the VAE's list",
        ),
        (
            {"encoder_blocks": [["res_x", 1], ["compress_all_res", 1], ["res_x_y", 1], ["res_x", 1]]},
            "can't build the VAE's list",
        ),
        ({"decoder_base_channels": -1}, "base channels"),
    ],
)  # fmt: skip
def test_a_vae_that_ours_isn_t_is_refused(change, message):
    with pytest.raises(CheckpointError) as error:
        vae_from_official(VAE_095 | change)
    assert message in str(error.value)


@pytest.mark.parametrize("version", [name for name, release in RELEASES.items() if release.size])
def test_schedulers_go_there_and_back(version):
    config = RELEASES[version].scheduler_config
    official = scheduler_to_official(config)
    assert official["sampler"] in ("Uniform", "LinearQuadratic")
    back = scheduler_from_official(official, config["allowed_inference_steps"])
    for name in ("schedule", "shifting", "shift_terminal", "allowed_inference_steps"):
        assert back.get(name) == config.get(name)


def test_a_broken_scheduler_config_is_refused():
    for config in ({"sampler": "Cosine"}, {"shifting": "Mine"}, "LinearQuadratic", {"sampler": ["Uniform"]}):
        with pytest.raises(CheckpointError, match="scheduler's config"):
            scheduler_from_official(config)
    for steps in ([], [2.0], ["1"], 8, [float("nan")]):
        with pytest.raises(CheckpointError, match="allowed_inference_steps must be"):
            scheduler_from_official({"sampler": "LinearQuadratic"}, steps)
    with pytest.raises(CheckpointError, match="can't express"):
        scheduler_to_official({"schedule": "mine"})


def test_upsamplers_go_there_and_back():
    official = {
        "_class_name": "LatentUpsampler",
        "in_channels": 128,
        "mid_channels": 512,
        "num_blocks_per_stage": 4,
        "dims": 3,
        "spatial_upsample": False,
        "temporal_upsample": True,
    }
    assert upsampler_to_official(upsampler_from_official(official)) == official
    for change in (
        {"dims": 4},
        {"temporal_upsample": False},
        {"mid_channels": "512"},
        {"rope_type": "split"},
    ):
        with pytest.raises(CheckpointError, match="upsampler's config"):
            upsampler_from_official(official | change)


def test_what_the_official_classes_lack_isn_t_written():
    transformer = full("transformer", {"causal_temporal_positioning": True})
    for change in ({"patch_size": 2}, {"attention_out_bias": False}, {"timestep_scale_multiplier": 1.0}):
        with pytest.raises(CheckpointError, match="no official equal"):
            transformer_to_official(transformer | change)
    with pytest.raises(CheckpointError, match="doesn't state causal_temporal_positioning"):
        transformer_to_official(transformer | {"causal_temporal_positioning": None})
    for change in ({"encoder_causal": False}, {"scaling_factor": 0.5}, {"resnet_norm_eps": 1e-5}):
        with pytest.raises(CheckpointError, match="no official equal"):
            vae_to_official(full("vae", VAES["0.9.5"]) | change)
