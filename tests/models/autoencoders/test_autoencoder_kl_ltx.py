"""Behaviour of `AutoencoderKLLTX` that needs no other implementation to compare with."""

from __future__ import annotations

import pytest
import torch
from helpers.autoencoders import (
    LATENT_CHANNELS,
    VERSIONS,
    noise_levels,
    relative_error,
    tiny_autoencoder,
    tiny_config,
)

from ltx_diffusers.errors import InputError
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("version", VERSIONS)
def test_latents_depend_on_no_later_frame(version):
    model = tiny_autoencoder(version)
    video = torch.randn(1, 3, 17, 32, 32)
    with torch.no_grad():
        whole = model.encode(video).latent_dist.parameters
        for k in range(2):
            changed = video.clone()
            changed[:, :, 8 * k + 1 :] = torch.randn_like(changed[:, :, 8 * k + 1 :])
            moments = model.encode(changed).latent_dist.parameters
            assert relative_error(moments[:, :, : k + 1], whole[:, :, : k + 1]) < 1e-5
            assert relative_error(moments[:, :, k + 1], whole[:, :, k + 1]) > 1e-2
            start = model.encode(video[:, :, : 8 * k + 1]).latent_dist.parameters
            assert relative_error(start, whole[:, :, : k + 1]) < 1e-5


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_decoder_needs_no_later_latent(causal):
    model = tiny_autoencoder("0.9.5", decoder_causal=causal)
    latents = torch.randn(1, LATENT_CHANNELS, 3, 1, 1)
    with torch.no_grad():
        whole = model.decode(latents, 0.05).sample
        start = model.decode(latents[:, :, :2], 0.05).sample
    assert (relative_error(start, whole[:, :, :9]) < 1e-5) == causal


def test_log_variance_is_one_for_all_channels():
    moments = tiny_autoencoder("0.9.5").encode(torch.randn(1, 3, 9, 64, 32)).latent_dist.parameters
    mean, log_variance = moments.chunk(2, dim=1)
    assert torch.equal(log_variance, log_variance[:, :1].expand_as(log_variance))
    assert log_variance.std() > 0
    assert not torch.equal(mean[:, 0], mean[:, 1])


@pytest.mark.parametrize("version", VERSIONS)
def test_gradient_checkpointing_changes_nothing(version):
    model = tiny_autoencoder(version).train()
    video, weights = torch.randn(2, 3, 9, 32, 32), torch.randn(2, 3, 9, 32, 32)
    calls = 0

    def counting(function, *args):
        nonlocal calls
        calls += 1
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)

    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing(counting)
        # A generator's state isn't restored for the recomputation: the noise must be drawn outside of it.
        output = model(video, noise_levels(version, 2), generator=generator(1)).sample
        (output * weights).mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    assert calls == sum(type(module).__name__ == "ResnetBlock3d" for module in model.modules())
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_noise_levels_may_be_one_for_all_or_one_each():
    model = tiny_autoencoder("0.9.5")
    latents = torch.randn(2, LATENT_CHANNELS, 1, 1, 1)
    with torch.no_grad():
        expected = model.decode(latents, torch.tensor([0.1, 0.1])).sample
        for temb in (0.1, torch.tensor(0.1), torch.tensor([0.1])):
            assert torch.equal(model.decode(latents, temb).sample, expected)
        clean = model.decode(latents, 0).sample
        each = model.decode(latents, torch.tensor([0.1, 0.0])).sample
    assert relative_error(each[:1], expected[:1]) < 1e-6
    assert relative_error(each[1:], clean[1:]) < 1e-6
    assert relative_error(clean, expected) > 1e-3


def test_injected_noise_comes_from_the_generator():
    model = tiny_autoencoder("0.9.1")
    latents = torch.randn(1, LATENT_CHANNELS, 1, 1, 1)
    with torch.no_grad():
        first, again, other = (model.decode(latents, 0.05, generator=generator(s)).sample for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert relative_error(other, first) > 1e-2


def test_a_generator_per_sample_gives_what_single_calls_give():
    model = tiny_autoencoder("0.9.1")
    latents, temb = torch.randn(2, LATENT_CHANNELS, 2, 1, 1), noise_levels("0.9.1", 2)
    with torch.no_grad():
        batch = model.decode(latents, temb, generator=[generator(1), generator(2)]).sample
        for i in range(2):
            single = model.decode(latents[i : i + 1], temb[i], generator=generator(i + 1)).sample
            assert relative_error(batch[i : i + 1], single) < 1e-5
    assert relative_error(batch[0], batch[1]) > 1e-2


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("batch", [2, 3])
def test_slicing_changes_nothing(batch, version, per_sample):
    model = tiny_autoencoder(version)
    video, temb = torch.randn(batch, 3, 9, 32, 32), noise_levels(version, batch)
    outputs, next_draws = [], []
    with torch.no_grad():
        for slicing in (False, True):
            model.enable_slicing() if slicing else model.disable_slicing()
            source = [generator(i) for i in range(batch)] if per_sample else generator(1)
            latents = model.encode(video).latent_dist.mode()
            outputs.append(model.decode(latents, temb, generator=source).sample)
            last = source[0] if per_sample else source
            next_draws.append(torch.rand(1, generator=last))
    assert relative_error(outputs[1], outputs[0]) < 1e-5
    assert torch.equal(*next_draws)


def test_a_single_frame_takes_the_short_way_only_on_plain_convolutions():
    model = tiny_autoencoder("0.9.5")
    image = torch.randn(1, 3, 1, 32, 32)
    expected = model.encode(image).latent_dist.mode()
    seen = []
    hook = model.encoder.conv_in.conv.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape)
    )
    assert relative_error(model.encode(image).latent_dist.mode(), expected) < 1e-5
    assert seen == [(1, 48, 3, 8, 8)]  # the frame with its two copies
    hook.remove()
    # Stores weights in 8 bits and casts them when a convolution is called.
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert model.encoder.mid_block.resnets[0].conv1.conv.weight.dtype == torch.float8_e4m3fn
    assert relative_error(model.encode(image).latent_dist.mode(), expected) < 0.5


def test_it_compiles_without_graph_breaks():
    model = tiny_autoencoder("0.9.1")
    encoder = torch.compile(model.encoder, fullgraph=True, backend="eager")
    decoder = torch.compile(model.decoder, fullgraph=True, backend="eager")
    image, latents, temb = (
        torch.randn(1, 3, 1, 32, 32),
        torch.randn(1, LATENT_CHANNELS, 2, 1, 1),
        torch.tensor([0.1]),
    )
    with torch.no_grad():
        assert torch.equal(encoder(image), model.encoder(image))
        torch.manual_seed(1)
        output = decoder(latents, temb)
        torch.manual_seed(1)
        assert torch.equal(output, model.decoder(latents, temb))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 9, 32, 32), "batch, channels, frames, height, width"),
        ((1, 4, 9, 32, 32), "expected 3 channels"),
        ((0, 3, 9, 32, 32), "none of them 0"),
        ((1, 3, 8, 32, 32), "use 1 or 9"),
        ((1, 3, 9, 48, 32), "height.*use 32 or 64"),
        ((1, 3, 9, 32, 31), "width.*use 32"),
    ],
)
def test_videos_of_bad_shapes_are_refused(shape, message):
    model = tiny_autoencoder("0.9.0")
    model.encoder.forward = None  # no work may be done
    with pytest.raises(InputError, match=message):
        model.encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "temb", "message"),
    [
        ((8, 1, 1, 1), 0.0, "batch, channels"),
        ((2, 3, 1, 1, 1), 0.0, "expected 8 channels"),
        ((2, 8, 0, 1, 1), 0.0, "none of them 0"),
        ((2, 8, 1, 1, 1), None, "pass temb"),
        ((2, 8, 1, 1, 1), torch.zeros(3), r"got \(3,\)"),
        ((2, 8, 1, 1, 1), torch.zeros(2, 1), r"got \(2, 1\)"),
    ],
)
def test_latents_of_bad_shapes_are_refused(shape, temb, message):
    model = tiny_autoencoder("0.9.1")
    model.decoder.forward = None
    with pytest.raises(InputError, match=message):
        model.decode(torch.zeros(shape), temb)


def test_a_list_of_generators_must_fit_the_batch():
    with pytest.raises(InputError, match="one per sample; got 1; expected 2"):
        tiny_autoencoder("0.9.1").decode(torch.zeros(2, 8, 1, 1, 1), 0.0, generator=[generator(0)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"down_block_types": ("DownBlock",) * 4},
            "'DownBlock'.*LTXVideoDownBlock3D, LTXVideo095DownBlock3D",
        ),
        ({"downsample_type": ("spatial", "diagonal", "conv", "conv")}, "'diagonal'.*conv, spatial, temporal"),
        ({"layers_per_block": (1, 1)}, "layers_per_block is too short"),
        ({"decoder_layers_per_block": (1, 1)}, "decoder_layers_per_block is too short"),
        ({"upsample_factor": (2,)}, "upsample_factor is too short"),
        ({"upsample_factor": (2, 2, 3)}, "64 and 3"),
        ({"block_out_channels": (8, 10, 32, 64, 128)}, "8 channels to 10"),
        ({"patch_size_t": 2}, "patch_size_t must be 1"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        AutoencoderKLLTX(**tiny_config("0.9.5", **changes))


def test_stages_may_be_mixed():
    """Kinds of stages that no release combines: plain stride-2 convolutions among residual ones, new channels."""
    model = tiny_autoencoder(
        "0.9.5",
        downsample_type=("spatial", "conv", "temporal", "conv"),
        spatio_temporal_scaling=(True, True, True, False),
        spatial_compression_ratio=None,
        temporal_compression_ratio=None,
        decoder_block_out_channels=(16, 24, 64),
        decoder_inject_noise=(True, True, True, True),
        upsample_residual=(True, False, True),
        decoder_spatio_temporal_scaling=(True, True, False),
        upsample_factor=(2, 1, 1),
    )
    assert model.compression_ratios == (4, 16, 16)
    assert model.decoder.up_blocks[1].conv_in is not None
    video = torch.randn(1, 3, 5, 32, 32)
    model(video, 0.1).sample.square().mean().backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    assert model(video, 0.1).sample.shape == video.shape


@pytest.mark.parametrize("shared", [True, False])
def test_channels_share_a_log_variance_or_have_their_own(shared):
    torch.manual_seed(0)
    vae = AutoencoderKLLTX(**tiny_config("0.9.5"), shared_log_variance=shared).eval()
    posterior = vae.encode(torch.randn(1, 3, 9, 32, 32)).latent_dist
    assert posterior.mean.shape == posterior.logvar.shape == (1, vae.config.latent_channels, 2, 1, 1)
    alike = torch.equal(posterior.logvar, posterior.logvar[:, :1].expand_as(posterior.logvar))
    assert alike == shared
