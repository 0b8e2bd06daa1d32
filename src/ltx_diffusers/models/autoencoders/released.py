"""Configs of the released video autoencoders, by version.

Each is a dict of arguments of `AutoencoderKLLTX`. The number beside each is its count of parameters; 0.9.6,
0.9.7 and 0.9.8, 2B and 13B alike, use the autoencoder of 0.9.5.
"""

from __future__ import annotations

_OLD_ENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("LTXVideoDownBlock3D",) * 4,
    "layers_per_block": (4, 3, 3, 3, 4),
    "spatio_temporal_scaling": (True, True, True, False),
    "downsample_type": ("conv",) * 4,
}

_RESIDUAL_DECODER = {
    "decoder_block_out_channels": (256, 512, 1024),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
    "default_decode_timestep": 0.05,
    "default_decode_noise_scale": 0.025,
}

_COMMON = {
    "latent_channels": 128,
    "patch_size": 4,
    "encoder_causal": True,
    "decoder_causal": False,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}

RELEASED: dict[str, dict] = {
    # Encoder 180.4 M, decoder 238.8 M.
    "0.9.0": {
        **_COMMON,
        **_OLD_ENCODER,
        "decoder_block_out_channels": (128, 256, 512, 512),
        "decoder_layers_per_block": (4, 3, 3, 3, 4),
        "decoder_spatio_temporal_scaling": (True, True, True, False),
        "decoder_inject_noise": (False,) * 5,
        "upsample_residual": (False,) * 4,
        "upsample_factor": (1,) * 4,
        "timestep_conditioning": False,
    },
    # Encoder 180.4 M, decoder 754.6 M.
    "0.9.1": {
        **_COMMON,
        **_OLD_ENCODER,
        **_RESIDUAL_DECODER,
        "decoder_layers_per_block": (5, 6, 7, 8),
        "decoder_inject_noise": (True, True, True, False),
    },
    # Encoder 694.1 M, decoder 552.8 M.
    "0.9.5": {
        **_COMMON,
        **_RESIDUAL_DECODER,
        "block_out_channels": (128, 256, 512, 1024, 2048),
        "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
        "layers_per_block": (4, 6, 6, 2, 2),
        "spatio_temporal_scaling": (True, True, True, True),
        "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        "decoder_layers_per_block": (5, 5, 5, 5),
        "decoder_inject_noise": (False,) * 4,
    },
}
