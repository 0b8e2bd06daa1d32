"""Processes that share the frames of a video decode what one process decodes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from helpers.autoencoders import LATENT_CHANNELS, VERSIONS, noise_levels, relative_error, tiny_autoencoder
from helpers.processes import run_on

from ltx_diffusers.errors import InputError
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.models.autoencoders.time_shares import TimeShare

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="shares out over CPU processes")

PROCESSES = 3
"""One at either end of the video and one in the middle."""

KINDS = {version: {} for version in VERSIONS} | {"causal": {"decoder_causal": True}}

CASES = {
    "equal shares": (3, {}),
    "unequal shares": (7, {}),
    "too few frames": (2, {}),
    "slices": (4, {"use_slicing": True}),
    "tiles": (4, {"use_tiling": True, "use_framewise_decoding": True}),
}
"""Latent frames and settings."""


def autoencoder(kind: str, **settings) -> AutoencoderKLLTX:
    version = VERSIONS[-1] if kind == "causal" else kind
    model = tiny_autoencoder(version, **KINDS[kind])
    for name in ("height", "width"):
        setattr(model, f"tile_sample_min_{name}", 64)
        setattr(model, f"tile_sample_stride_{name}", 32)
    for name, value in settings.items():
        setattr(model, name, value)
    return model


def decoded(kind: str, case: str, shared: bool) -> torch.Tensor:
    frames, settings = CASES[case]
    model = autoencoder(kind, **settings)
    model.use_pieces = False
    if shared:
        model.enable_parallel_decoding()
    latents = torch.randn(2, LATENT_CHANNELS, frames, 1, 3, generator=torch.Generator().manual_seed(1))
    levels = noise_levels(VERSIONS[-1] if kind == "causal" else kind, 2)
    generator = [torch.Generator().manual_seed(seed) for seed in (2, 3)]
    with torch.no_grad():
        video = model.decode(latents, levels, generator=generator).sample
        # The generators have gone on alike.
        return torch.cat([video, model.decode(latents, levels, generator=generator).sample])


def cases() -> list[tuple[str, str]]:
    """Every kind in shares of different lengths, and everything else for one kind."""
    return [
        (kind, case)
        for kind in KINDS
        for case in CASES
        if case == "unequal shares" or kind == VERSIONS[1] or (kind == "causal" and case == "equal shares")
    ]


def share(rank: int) -> dict:
    dist.init_process_group("gloo")
    found = {
        (kind, case): decoded(kind, case, shared=True).flatten()[:: 37 + rank].tolist()
        for kind, case in cases()
    }
    model = autoencoder(VERSIONS[0])
    frames = []
    model.decoder.conv_out.register_forward_pre_hook(lambda layer, args: frames.append(args[0].shape[2]))
    pair = dist.new_group([0, 1])
    others = dist.new_group([2])
    model.enable_parallel_decoding(pair if rank < 2 else others)
    latents = torch.randn(1, LATENT_CHANNELS, 3, 1, 1)
    with torch.no_grad():
        model.decode(latents)
    model.disable_parallel_decoding()
    with torch.no_grad():
        model.decode(latents)
    model.enable_parallel_decoding()
    assert model.parallel_groups and not model.decodes_in_pieces(latents)
    with pytest.raises(InputError, match="memory budget"):
        model.enable_memory_budget("6GB")
    model.disable_parallel_decoding()
    model.enable_memory_budget("6GB")
    with pytest.raises(InputError, match="memory budget"):
        model.enable_parallel_decoding()
    hidden = torch.arange(240.0).view(1, 4, 2, 5, 6) + 1000 * rank
    row = TimeShare(dist.group.WORLD, rank, PROCESSES)
    widened = [
        row.with_neighbours(hidden.to(memory_format=layout), 1, 1)
        for layout in (torch.contiguous_format, torch.channels_last_3d)
    ]
    return found | {"frames": frames, "same in any layout": torch.equal(*widened)}


def test_three_processes_give_what_one_gives() -> None:
    found = run_on(PROCESSES, share)
    for kind, case in cases():
        alone = decoded(kind, case, shared=False).flatten()
        for rank in range(PROCESSES):
            shared = torch.tensor(found[rank][kind, case])
            assert relative_error(shared, alone[:: 37 + rank]) < 5e-6, (kind, case, rank)
    # Two of the processes had two and one of three latent frames, the third decoded alone.
    assert [found[rank]["frames"][0] for rank in range(PROCESSES)] == [9, 8, 17]
    assert all(found[rank]["same in any layout"] for rank in range(PROCESSES))


def test_processes_must_be_connected() -> None:
    with pytest.raises(InputError, match="torchrun"):
        tiny_autoencoder(VERSIONS[0]).enable_parallel_decoding()
