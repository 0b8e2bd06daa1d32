"""Encoding and decoding in pieces: the same result as the whole model's, whatever the pieces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.autoencoders import (
    LATENT_CHANNELS,
    VERSIONS,
    noise_levels,
    relative_error,
    tiny_autoencoder,
)
from torch import nn

from ltx_diffusers.errors import InputError
from ltx_diffusers.models.autoencoders import coding, fewer_products, kernels
from ltx_diffusers.models.autoencoders.causal_conv import CausalConv3d
from ltx_diffusers.models.autoencoders.resnet import pixel_norm
from ltx_diffusers.models.autoencoders.streams import ConvStream, GatheringStream

EXACT = 1e-5
KINDS = {
    **{version: (version, {}) for version in VERSIONS},
    "causal decoder": ("0.9.5", {"decoder_causal": True}),
    "encoder that looks ahead": ("0.9.1", {"encoder_causal": False}),
    "mixed stages": (
        "0.9.5",
        {
            "downsample_type": ("spatial", "conv", "temporal", "conv"),
            "spatio_temporal_scaling": (True, True, True, False),
            "spatial_compression_ratio": None,
            "temporal_compression_ratio": None,
            "decoder_block_out_channels": (16, 24, 64),
            "decoder_inject_noise": (True, True, True, True),
            "upsample_residual": (True, False, True),
            "decoder_spatio_temporal_scaling": (True, True, False),
            "upsample_factor": (2, 1, 1),
        },
    ),
}


@pytest.fixture(params=KINDS, ids=list(KINDS))
def model(request):
    version, changes = KINDS[request.param]
    model = tiny_autoencoder(version, **changes)
    model.version = version
    return model


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (1, 2)]


def inputs(model, frames: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    time, height, width = model.compression_ratios
    latents = torch.randn(2, LATENT_CHANNELS, frames, 2, 1)
    video = torch.randn(2, 3, (frames - 1) * time + 1, 2 * height, width)
    return latents, noise_levels(model.version, 2), video


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_pieces_of_any_size_give_what_the_whole_model_gives(model, frames):
    latents, levels, video = inputs(model, frames)
    decoded, encoded = model.decoder(latents, levels, generators()), model.encoder(video)
    ratio = model.temporal_compression_ratio
    assert decoded.std() > 0.1
    for pixels in (1, 20, 1 << 15):  # one frame at a time, a few, all
        found = coding.decode_in_pieces(model.decoder, latents, levels, generators(), pixels)
        assert found.shape == decoded.shape
        assert relative_error(found, decoded) < EXACT
        found = coding.encode_in_pieces(model.encoder, [video], ratio, pixels)
        assert relative_error(found, encoded) < EXACT


@pytest.mark.parametrize("split", [[1, 1, 1, 1], [3, 1], [1, 3]])
def test_any_split_of_the_input_gives_the_same(model, split):
    latents, levels, video = inputs(model, 4)
    expected = model.decode(latents, levels, generator=generators()).sample
    pieces = list(model.decode_stream(iter(latents.split(split, dim=2)), levels, generators()))
    assert relative_error(torch.cat(pieces, dim=2), expected) < EXACT

    expected = model.encode(video).latent_dist.parameters
    lengths = [5, video.shape[2] - 6, 1] if sum(split) != split[0] + split[-1] else [1, video.shape[2] - 1]
    found = model.encode_stream(iter(video.split(lengths, dim=2))).latent_dist.parameters
    assert relative_error(found, expected) < EXACT


class Recording:
    """A stream that gives its frames back from the second piece on, and notes how they came."""

    def __init__(self) -> None:
        self.pushed: list[tuple[list[int], bool]] = []

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        self.pushed.append((piece.flatten().tolist(), last))
        return piece if len(self.pushed) > 1 else None


def test_small_pieces_are_gathered_in_order():
    stream = Recording()
    gathering = GatheringStream(stream, 4)
    frames = torch.arange(15).view(1, 15, 1, 1, 1)
    pieces = frames.split([1, 2, 2, 4, 1, 1, 2, 2], dim=1)
    found = [gathering.push(piece, piece is pieces[-1]) for piece in pieces]
    groups = [[0, 1, 2], [3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14]]
    assert stream.pushed == [(group, group is groups[-1]) for group in groups]
    known = [None if piece is None else piece.flatten().tolist() for piece in found]
    assert known == [None, None, None, [3, 4, 5, 6, 7, 8], None, None, [9, 10, 11, 12], [13, 14]]


def test_deep_layers_of_the_encoder_get_frames_together(monkeypatch):
    """At a resolution where a frame is much work for the first layers and little for the last."""
    model = tiny_autoencoder("0.9.0")
    video = torch.randn(1, 3, 65, 64, 64)
    lengths = []
    close = ConvStream.close

    def watched(self, last):
        if self.layer is model.encoder.conv_out:
            lengths.append(self._new.stop - self._new.start)
        return close(self, last)

    monkeypatch.setattr(ConvStream, "close", watched)
    coding.encode_in_pieces(model.encoder, [video], 8, pixels=1024)
    assert lengths == [9]


@pytest.mark.parametrize("version", VERSIONS)
def test_without_gradients_pieces_are_the_usual_way(version, monkeypatch):
    model = tiny_autoencoder(version)
    latents, levels = torch.randn(1, LATENT_CHANNELS, 2, 1, 1), noise_levels(version, 1)

    def draw(**changes: object) -> torch.Tensor:
        for name, value in changes.items():
            setattr(model, name, value)
        torch.manual_seed(1)
        return model.decode(latents, levels).sample

    plain, usual = draw(use_pieces=False), draw(use_pieces=None)
    assert 0 < relative_error(usual, plain) < EXACT
    with torch.enable_grad():
        assert torch.equal(draw(), plain)
    with torch.autocast("cpu"):
        assert draw().dtype == torch.bfloat16


def test_half_precision_is_nearer_to_the_truth_in_pieces():
    model = tiny_autoencoder("0.9.5").bfloat16()
    truth = tiny_autoencoder("0.9.5")
    truth.load_state_dict(model.state_dict())
    latents = torch.randn(1, LATENT_CHANNELS, 3, 2, 2).bfloat16()
    exact = truth.decode(latents.float(), 0.05).sample
    errors = {}
    for model.use_pieces in (True, False):
        errors[model.use_pieces] = relative_error(model.decode(latents, 0.05).sample.float(), exact)
    assert errors[True] < 1.1 * errors[False] < 0.05


def test_hooks_and_changed_layers_keep_working():
    model = tiny_autoencoder("0.9.5")
    latents = torch.randn(1, LATENT_CHANNELS, 2, 1, 1)
    expected = model.decode(latents, 0.05).sample
    seen = []
    # On a convolution a hook is called, on a block the whole model runs as it is.
    for layer in (model.decoder.conv_in.conv, model.decoder.mid_block.resnets[0]):
        hook = layer.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
        assert relative_error(model.decode(latents, 0.05).sample, expected) < EXACT
        hook.remove()
    assert seen == ["Conv3d", "ResnetBlock3d"]
    model.decoder.mid_block.resnets[0].register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="use encode and decode"):
        next(model.decode_stream(latents, 0.05))


def test_layers_put_in_the_place_of_others_are_called():
    """As adapters and sharding do it."""

    class Adapted(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base_layer = base

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return 1.5 * self.base_layer(hidden)

    model = tiny_autoencoder("0.9.5")
    latents = torch.randn(1, LATENT_CHANNELS, 2, 1, 1)
    before = model.decode(latents, 0.05).sample
    holder = model.decoder.mid_block.resnets[0].conv2
    holder.conv = Adapted(holder.conv)
    assert not coding.can_run_in_pieces(model.decoder)
    after = model.decode(latents, 0.05).sample
    assert relative_error(after, before) > 1e-3
    assert torch.equal(after, model.decoder(latents, torch.tensor([0.05])))


def test_tiles_are_coded_in_pieces_too():
    model = tiny_autoencoder("0.9.5")
    latents = torch.randn(1, LATENT_CHANNELS, 5, 4, 2)
    model.enable_tiling(64, 64, 24, 32, 32, 16)
    tiled = model.decode(latents, 0.05).sample
    model.use_pieces = False
    assert relative_error(tiled, model.decode(latents, 0.05).sample) < EXACT


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "no latents"),
        ([(1, 8, 1, 2, 2), (1, 8, 1, 2, 3)], "alike but for their frames"),
        ([(1, 8, 1, 2, 2), (1, 8, 0, 2, 2)], "alike but for their frames"),
        ([(1, 4, 1, 2, 2)], "expected 8 channels"),
    ],
)
def test_bad_pieces_are_refused(pieces, message):
    model = tiny_autoencoder("0.9.0")
    with pytest.raises(InputError, match=message):
        list(model.decode_stream(torch.zeros(shape) for shape in pieces))


def test_a_stream_of_frames_must_have_a_valid_length():
    model = tiny_autoencoder("0.9.0")
    with pytest.raises(InputError, match="use 9 or 17"):
        model.encode_stream([torch.zeros(1, 3, 9, 32, 32), torch.zeros(1, 3, 1, 32, 32)])
    with pytest.raises(InputError, match="no frames"):
        model.encode_stream([])
    with pytest.raises(InputError, match="expected 3 channels"):
        model.encode_stream([torch.zeros(3, 9, 32, 32)])


@pytest.mark.parametrize("frames", [3, 4, 5, 6, 7, 8, 11])
@pytest.mark.parametrize("batch", [1, 2])
def test_fewer_products_give_the_convolution(frames, batch, monkeypatch):
    monkeypatch.setattr(kernels, "_LEAST_PIXELS", 1)
    monkeypatch.setattr(fewer_products, "PIXELS_AT_ONCE", 40)  # two windows at a time
    conv = nn.Conv3d(5, 7, 3, padding=(0, 1, 1))
    padded = torch.randn(batch, frames + 2, 4, 5, 5)
    assert kernels.pays_with_few_products(conv, padded)
    found = kernels.convolve(conv, padded, fewer_products.prepared_kernels(conv.weight))
    exact = conv.double()(padded.permute(0, 4, 1, 2, 3).double()).permute(0, 2, 3, 4, 1)
    assert relative_error(found.double(), exact) < 2e-6


def test_fewer_products_are_left_alone_where_they_lose(monkeypatch):
    monkeypatch.setattr(kernels, "_LEAST_PIXELS", 1)
    plain, padded = nn.Conv3d(4, 4, 3, padding=(0, 1, 1)), torch.zeros(1, 6, 4, 4, 4)
    assert kernels.pays_with_few_products(plain, padded)
    assert not kernels.pays_with_few_products(plain, padded[:, :4])  # 2 frames
    assert not kernels.pays_with_few_products(plain, padded.bfloat16())
    assert not kernels.pays_with_few_products(nn.Conv3d(4, 4, 3, (2, 2, 2), padding=(0, 1, 1)), padded)
    assert not kernels.pays_with_few_products(nn.Conv3d(4, 4, 1), padded)
    monkeypatch.setattr(kernels, "cpu_convolution", lambda: F.conv3d)
    assert not kernels.pays_with_few_products(plain, padded)


def test_a_routine_that_is_missing_or_wrong_is_not_used(monkeypatch):
    state = torch.random.get_rng_state()
    for wrong in (None, lambda video, weight, *_: torch.zeros(1, 8, 1, 5, 4)):
        kernels.cpu_convolution.cache_clear()
        if wrong is None:
            monkeypatch.delattr(torch, "mkldnn_convolution")
        else:
            monkeypatch.setattr(torch, "mkldnn_convolution", wrong, raising=False)
        assert kernels.cpu_convolution() is F.conv3d
        model = tiny_autoencoder("0.9.5")
        latents = torch.randn(1, LATENT_CHANNELS, 4, 6, 6)
        expected = model.decoder(latents, torch.tensor([0.05]))
        assert relative_error(model.decode(latents, 0.05).sample, expected) < EXACT
    kernels.cpu_convolution.cache_clear()
    monkeypatch.undo()
    torch.random.set_rng_state(state)
    kernels.cpu_convolution()
    assert torch.equal(torch.random.get_rng_state(), state)  # the trial draws nothing from the global source


@pytest.mark.parametrize("causal", [True, False])
def test_a_convolution_carries_what_the_next_piece_needs(causal):
    layer = CausalConv3d(3, 4, causal=causal)
    video = torch.randn(1, 3, 6, 4, 4)
    stream, found = ConvStream(layer), []
    for frame in range(6):
        found.append(stream.push(video[:, :, frame : frame + 1].permute(0, 2, 3, 4, 1), frame == 5))
    assert (found[0] is None) == (not causal)
    joined = torch.cat([piece for piece in found if piece is not None], dim=1)
    assert relative_error(joined.permute(0, 4, 1, 2, 3), layer(video)) < EXACT


def test_norms_are_those_of_the_model(monkeypatch):
    monkeypatch.setattr(kernels, "_BLOCK", 12)  # several blocks, the last one smaller
    hidden, shift, factor = torch.randn(2, 2, 3, 3, 4), torch.randn(2, 4), torch.randn(2, 4)
    target = torch.empty_like(hidden)
    kernels.normalize_into(target, hidden, shift, factor)
    normed = pixel_norm(hidden.movedim(-1, 1)).movedim(1, -1)
    assert (
        relative_error(target, F.silu(normed * factor[:, None, None, None] + shift[:, None, None, None]))
        < 1e-6
    )
