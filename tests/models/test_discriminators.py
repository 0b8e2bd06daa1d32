"""Patch discriminators: what a logit sees, pictures as videos of one frame, saving."""

import pytest
import torch

from ltx_diffusers import PatchDiscriminator2D, PatchDiscriminator3D
from ltx_diffusers.errors import InputError


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("frames", "expected"), [(1, (2, 1, 1, 4, 2)), (9, (2, 1, 3, 4, 2)), (17, (2, 1, 5, 4, 2))]
)
def test_a_logit_stands_for_a_patch_in_space_and_time(frames, expected):
    assert PatchDiscriminator3D(3, 4, num_layers=3)(draw(2, 3, frames, 32, 16)).shape == expected


def test_the_3d_verdict_on_a_beginning_is_that_on_the_picture():
    torch.manual_seed(0)
    network = PatchDiscriminator3D(3, 4, num_layers=3, normalization="none").eval()
    video = draw(1, 3, 9, 32, 32)
    torch.testing.assert_close(network(video)[:, :, :1], network(video[:, :, :1]))
    other = video.clone()
    other[:, :, 5:] += 1
    assert torch.equal(network(other)[:, :, :2], network(video)[:, :, :2])
    assert not torch.allclose(network(other)[:, :, 2:], network(video)[:, :, 2:])


def test_the_2d_verdict_is_per_frame():
    torch.manual_seed(0)
    network = PatchDiscriminator2D(6, 4, num_layers=2).eval()
    video = draw(2, 6, 3, 16, 32)
    logits = network(video)
    assert logits.shape == (2, 3, 4, 8)
    for frame in range(3):
        torch.testing.assert_close(network(video[:, :, frame : frame + 1])[:, 0], logits[:, frame])


def test_a_verdict_sees_its_patch_only():
    torch.manual_seed(0)
    network = PatchDiscriminator2D(3, 4, num_layers=2, normalization="none").eval()
    video = draw(1, 3, 1, 64, 64).requires_grad_()
    network(video)[0, 0, 8, 8].backward()
    rows = video.grad.abs().sum((0, 1, 2, 4)).nonzero().flatten()
    assert 16 <= rows[-1] - rows[0] + 1 < 32


@pytest.mark.parametrize("kind", [PatchDiscriminator3D, PatchDiscriminator2D])
@pytest.mark.parametrize("normalization", ["none", "group", "spectral"])
def test_saved_and_loaded_is_the_same(kind, normalization, tmp_path):
    torch.manual_seed(0)
    network = kind(3, 4, num_layers=2, normalization=normalization).eval()
    network.save_pretrained(tmp_path)
    video = draw(1, 3, 3, 16, 16)
    loaded = kind.from_pretrained(tmp_path)
    assert loaded.config.normalization == normalization
    torch.testing.assert_close(loaded(video), network(video))


def test_spectral_norm_bounds_every_layer():
    torch.manual_seed(0)
    network = PatchDiscriminator2D(3, 8, num_layers=2).train()
    for _ in range(50):  # the power iteration settles
        network(draw(1, 3, 1, 16, 16))
    for layer in network.layers:
        norm = torch.linalg.matrix_norm(layer.conv.weight.detach().flatten(1), 2)
        assert float(norm) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    "settings", [{"num_layers": 0}, {"normalization": "batch"}, {"num_layers": 1, "num_time_layers": 2}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError):
        PatchDiscriminator3D(**settings)
