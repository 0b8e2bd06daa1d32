"""`LTXLatentUpsampler`: sizes, released counts, and outputs of Diffusers' and the official class."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

from ltx_diffusers import LTXLatentUpsampler
from ltx_diffusers.errors import InputError

TINY = {"in_channels": 8, "mid_channels": 32, "num_blocks_per_stage": 2}
KINDS = {
    "spatial": {"spatial_upsample": True, "temporal_upsample": False, "dims": 3},
    "temporal": {"spatial_upsample": False, "temporal_upsample": True, "dims": 3},
    "both": {"spatial_upsample": True, "temporal_upsample": True, "dims": 3},
    "frames alone": {"spatial_upsample": True, "temporal_upsample": False, "dims": 2},
}
SIZES = {"spatial": (3, 8, 12), "temporal": (5, 4, 6), "both": (5, 8, 12), "frames alone": (3, 8, 12)}


def with_random_norms(model):
    """Norms start as the identity, which would hide a wrong channel or place."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_diffusers(kind):
    theirs = with_random_norms(LTXLatentUpsamplerModel(**TINY, **KINDS[kind]))
    ours = LTXLatentUpsampler(**TINY, **KINDS[kind]).eval()
    ours.load_state_dict(theirs.state_dict())
    latents = torch.randn(2, 8, 3, 4, 6)
    with torch.no_grad():
        output, expected = ours(latents), theirs(latents)
    assert output.shape == (2, 8, *SIZES[kind])
    assert torch.allclose(output, expected, atol=1e-5)
    plain = {name: value for name, value in theirs.config.items() if not name.startswith("_")}
    assert {name: ours.config[name] for name in plain} == plain


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_official_package(kind):
    official = pytest.importorskip("ltx_video.models.autoencoders.latent_upsampler")
    ours = with_random_norms(LTXLatentUpsampler(**TINY, **KINDS[kind]))
    theirs = official.LatentUpsampler.from_config({**TINY, **KINDS[kind]})
    theirs.load_state_dict(ours.state_dict())
    latents = torch.randn(2, 8, 3, 4, 6)
    with torch.no_grad():
        assert torch.allclose(ours(latents), theirs(latents), atol=1e-5)


@pytest.mark.parametrize(("kind", "millions"), [("spatial", 126.25), ("temporal", 130.97)])
def test_the_released_sizes(kind, millions):
    with torch.device("meta"):
        model = LTXLatentUpsampler(**KINDS[kind])
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.005
    )


def test_it_is_saved_for_both_libraries(tmp_path):
    ours = with_random_norms(LTXLatentUpsampler(**TINY))
    ours.save_pretrained(tmp_path)
    latents = torch.randn(1, 8, 2, 4, 4)
    with torch.no_grad():
        for cls in (LTXLatentUpsampler, LTXLatentUpsamplerModel):
            assert torch.equal(cls.from_pretrained(tmp_path).eval()(latents), ours(latents))


def test_what_it_can_t_do_is_refused():
    for settings, message in [
        ({"dims": 4}, "dims must be 3"),
        ({"dims": 2, "temporal_upsample": True}, "dims must be 3"),
        ({"spatial_upsample": False}, "must upsample"),
        ({"mid_channels": 48}, "multiple of 32; got 48"),
    ]:
        with pytest.raises(InputError, match=message):
            LTXLatentUpsampler(**{**TINY, **settings})
    model = LTXLatentUpsampler(**TINY)
    for shape in ((1, 8, 4, 4), (1, 7, 2, 4, 4)):
        with pytest.raises(InputError, match=r"takes latents \(B, C, F, H, W\)"):
            model(torch.zeros(shape))
