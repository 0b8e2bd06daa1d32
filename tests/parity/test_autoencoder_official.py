"""`AutoencoderKLLTX` against the official package's autoencoder on shared random weights."""

from __future__ import annotations

import pytest
import torch
from helpers.autoencoders import LATENT_CHANNELS, VERSIONS, noise_levels, relative_error, tiny_autoencoder

causal_video_autoencoder = pytest.importorskip("ltx_video.models.autoencoders.causal_video_autoencoder")

OLD_ENCODER = [
    ["res_x", 1], ["compress_all", 1], ["res_x_y", 1],
    ["res_x", 2], ["compress_all", 1], ["res_x_y", 1],
    ["res_x", 1], ["compress_all", 1],
    ["res_x", 1], ["res_x", 1],
]  # fmt: skip
UP = ["compress_all", {"residual": True, "multiplier": 2}]
# The numbers of residual blocks are those of helpers.autoencoders.tiny_config.
BLOCKS = {
    "0.9.0": {"encoder_blocks": OLD_ENCODER, "decoder_blocks": OLD_ENCODER},
    "0.9.1": {
        "encoder_blocks": OLD_ENCODER,
        "decoder_blocks": [
            ["res_x", {"num_layers": 2, "inject_noise": True}],
            UP,
            ["res_x", {"num_layers": 1, "inject_noise": True}],
            UP,
            ["res_x", {"num_layers": 1, "inject_noise": True}],
            UP,
            ["res_x", {"num_layers": 1, "inject_noise": False}],
        ],
    },
    "0.9.5": {
        "encoder_blocks": [
            ["res_x", 1], ["compress_space_res", {"multiplier": 2}],
            ["res_x", 2], ["compress_time_res", {"multiplier": 2}],
            ["res_x", 1], ["compress_all_res", {"multiplier": 2}],
            ["res_x", 1], ["compress_all_res", {"multiplier": 2}],
            ["res_x", 1],
        ],
        "decoder_blocks": [["res_x", 2], UP, ["res_x", 1], UP, ["res_x", 1], UP, ["res_x", 1]],
    },
}  # fmt: skip

# Our module -> index in the official flat list of blocks.
OLD_DOWN = [
    "down_blocks.0", "down_blocks.0.downsamplers.0", "down_blocks.0.conv_out",
    "down_blocks.1", "down_blocks.1.downsamplers.0", "down_blocks.1.conv_out",
    "down_blocks.2", "down_blocks.2.downsamplers.0",
    "down_blocks.3", "mid_block",
]  # fmt: skip
NEW_DOWN = [
    "down_blocks.0", "down_blocks.0.downsamplers.0",
    "down_blocks.1", "down_blocks.1.downsamplers.0",
    "down_blocks.2", "down_blocks.2.downsamplers.0",
    "down_blocks.3", "down_blocks.3.downsamplers.0",
    "mid_block",
]  # fmt: skip
OLD_UP = [
    "mid_block",
    "up_blocks.0",
    "up_blocks.1.upsamplers.0", "up_blocks.1",
    "up_blocks.2.conv_in", "up_blocks.2.upsamplers.0", "up_blocks.2",
    "up_blocks.3.conv_in", "up_blocks.3.upsamplers.0", "up_blocks.3",
]  # fmt: skip
NEW_UP = [
    "mid_block",
    "up_blocks.0.upsamplers.0", "up_blocks.0",
    "up_blocks.1.upsamplers.0", "up_blocks.1",
    "up_blocks.2.upsamplers.0", "up_blocks.2",
]  # fmt: skip
ORDERS = {"0.9.0": (OLD_DOWN, OLD_UP), "0.9.1": (OLD_DOWN, NEW_UP), "0.9.5": (NEW_DOWN, NEW_UP)}


def official_key(key: str, version: str) -> str:
    side, rest = key.split(".", 1)
    order, blocks = (
        (ORDERS[version][0], "down_blocks") if side == "encoder" else (ORDERS[version][1], "up_blocks")
    )
    for prefix in sorted(order, key=len, reverse=True):
        if rest.startswith(prefix + "."):
            rest = f"{blocks}.{order.index(prefix)}{rest.removeprefix(prefix)}"
            break
    else:
        if rest.startswith(("time_embedder", "scale_shift_table")):
            rest = f"last_{rest}"
    rest = rest.replace("conv_shortcut.conv", "conv_shortcut").replace("norm3.", "norm3.norm.")
    return f"{side}.{rest.replace('resnets', 'res_blocks')}"


def official_autoencoder(ours, version: str):
    config = {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "latent_channels": LATENT_CHANNELS,
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "latent_log_var": "uniform",
        "use_quant_conv": False,
        "causal_decoder": ours.config.decoder_causal,
        "timestep_conditioning": ours.config.timestep_conditioning,
        "encoder_base_channels": 8,
        "decoder_base_channels": 8,
    }
    model = causal_video_autoencoder.CausalVideoAutoencoder.from_config(config | BLOCKS[version])
    state = {
        official_key(k, version): v for k, v in ours.state_dict().items() if not k.startswith("latents_")
    }
    state["per_channel_statistics.mean-of-means"] = ours.latents_mean
    state["per_channel_statistics.std-of-means"] = ours.latents_std
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("decoder_causal", [False, True])
@pytest.mark.parametrize("num_frames", [1, 17])
@pytest.mark.parametrize("version", VERSIONS)
def test_outputs_are_equal(version, num_frames, decoder_causal):
    ours = tiny_autoencoder(version, decoder_causal=decoder_causal)
    official = official_autoencoder(ours, version)
    video = torch.randn(2, 3, num_frames, 64, 32)
    temb = noise_levels(version, 2)
    with torch.no_grad():
        moments = ours.encode(video).latent_dist.parameters
        assert relative_error(moments, official.encode(video).latent_dist.parameters) < 1e-5
        latents = moments[:, :LATENT_CHANNELS]
        torch.manual_seed(1)
        output = ours.decode(latents, temb).sample
        torch.manual_seed(1)
        expected = official.decode(latents, target_shape=video.shape, timestep=temb).sample
    assert output.shape == video.shape
    assert relative_error(output, expected) < 1e-5
