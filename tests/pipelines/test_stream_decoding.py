"""Decoding piece by piece: the oracle is the VAE's own framewise decoding of the whole."""

from __future__ import annotations

import functools

import pytest
import torch
from tiny import tiny_components

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.errors import InputError
from ltx_diffusers.pipelines.decoding import decode_latents
from ltx_diffusers.pipelines.stream_decoding import StreamDecoder


@functools.cache
def vae(timestep_conditioning: bool = False) -> AutoencoderKLLTX:
    parts = tiny_components(timestep_conditioning=timestep_conditioning, causal=True, statistics=True)
    return parts["vae"]


def random_latents(frames: int) -> torch.Tensor:
    return torch.randn(1, 8, frames, 1, 2, generator=torch.Generator().manual_seed(0))


def streamed(decoder: StreamDecoder, latents: torch.Tensor, pieces: list[int]) -> torch.Tensor:
    assert sum(pieces) == latents.shape[2]
    frames = [part for piece in latents.split(pieces, dim=2) for part in decoder.push(piece)]
    frames += decoder.finish()
    assert all(part.shape[2] > 0 for part in frames)
    return torch.cat(frames, dim=2)


@pytest.mark.parametrize("pieces", [[1] * 10, [10], [3, 4, 3], [7], [4], [2], [1], [5, 6]])
@pytest.mark.parametrize(("tile", "overlap"), [(3, 1), (3, 2), (8, 2)])
def test_it_is_the_framewise_decoding_of_the_whole(pieces: list[int], tile: int, overlap: int) -> None:
    whole, latents = vae(), random_latents(sum(pieces))
    decoder = StreamDecoder(
        whole, timestep=0.0, noise_scale=0.0, tone_map_compression=0.6, tile=tile, overlap=overlap
    )
    frames = streamed(decoder, latents, pieces)
    whole.enable_framewise(8 * tile, 8 * (tile - overlap))
    expected = decode_latents(whole, latents, timestep=[0.0], noise_scale=[0.0], tone_map_compression=0.6)
    whole.disable_framewise()
    assert frames.shape == expected.shape == (1, 3, 8 * sum(pieces) - 7, 32, 64)
    torch.testing.assert_close(frames, expected, atol=2e-5, rtol=0)


def test_noise_does_not_depend_on_the_pieces() -> None:
    latents = random_latents(9)
    frames = [
        streamed(
            StreamDecoder(vae(True), timestep=0.1, noise_scale=scale, seed=seed, tile=4, overlap=1),
            latents,
            pieces,
        )
        for scale, seed, pieces in ((0.5, 3, [9]), (0.5, 3, [2, 1, 6]), (0.5, 4, [9]), (0.0, 3, [9]))
    ]
    torch.testing.assert_close(frames[0], frames[1], atol=2e-5, rtol=0)
    assert not torch.allclose(frames[0], frames[2], atol=1e-3)
    assert not torch.allclose(frames[0], frames[3], atol=1e-3)


def test_it_holds_no_more_than_a_tile() -> None:
    decoder = StreamDecoder(vae(), timestep=0.0, noise_scale=0.0, tile=4, overlap=1)
    for latents in random_latents(40).split(1, dim=2):
        list(decoder.push(latents))
        held = decoder._waiting.untyped_storage().nbytes() // (4 * 8 * 2)
        assert held <= 5
        assert decoder._held is None or decoder._held.untyped_storage().nbytes() == 4 * 3 * 8 * 32 * 64


@pytest.mark.parametrize(("tile", "overlap"), [(3, 3), (3, 0), (0, 1)])
def test_tiles_that_cannot_be(tile: int, overlap: int) -> None:
    with pytest.raises(InputError, match="overlap"):
        StreamDecoder(vae(), timestep=0.0, noise_scale=0.0, tile=tile, overlap=overlap)
