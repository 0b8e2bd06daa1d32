"""Single files against Diffusers' own converters, where these work: the same tensors under the same names.

They work on whole files of 0.9.0 to 0.9.7 at the released sizes, so that is what is compared: the released shapes,
without memory behind them.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel
from diffusers.loaders.single_file_utils import (
    convert_ltx_transformer_checkpoint_to_diffusers,
    convert_ltx_vae_checkpoint_to_diffusers,
    infer_diffusers_model_type,
)

from ltx_diffusers.conversion.model_classes import shapes_of
from ltx_diffusers.conversion.releases import RELEASES
from ltx_diffusers.conversion.renames import DROPPED_STATISTICS, to_diffusers, to_official
from ltx_diffusers.models.autoencoders.released import RELEASED as VAES
from ltx_diffusers.models.transformers.released import RELEASED as TRANSFORMERS


def empty(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def official_shapes(size: str | None, vae: str) -> dict[str, torch.Tensor]:
    """A released file without memory behind it."""
    shapes = {
        f"vae.{to_official('vae', name, vae)}": shape for name, shape in shapes_of("vae", VAES[vae]).items()
    }
    if size is not None:
        for name, shape in shapes_of("transformer", TRANSFORMERS[size]).items():
            shapes[f"model.diffusion_model.{to_official('transformer', name)}"] = shape
    return empty(shapes)


@pytest.mark.parametrize("version", VAES)
def test_a_vae_s_tensors_get_diffusers_names(version):
    ours = shapes_of("vae", VAES[version])
    tensors = empty({f"vae.{to_official('vae', name, version)}": shape for name, shape in ours.items()})
    tensors |= empty({f"vae.per_channel_statistics.{name}": (128,) for name in DROPPED_STATISTICS})
    theirs = convert_ltx_vae_checkpoint_to_diffusers(dict(tensors))
    mapped = {
        to_diffusers("vae", name.removeprefix("vae."), version): tensor for name, tensor in tensors.items()
    }
    del mapped[None]
    assert mapped.keys() == theirs.keys() == ours.keys()
    assert all(mapped[name] is theirs[name] for name in mapped)


@pytest.mark.parametrize("size", TRANSFORMERS)
def test_a_transformer_s_tensors_get_diffusers_names(size):
    ours = shapes_of("transformer", TRANSFORMERS[size])
    tensors = empty(
        {f"model.diffusion_model.{to_official('transformer', name)}": shape for name, shape in ours.items()}
    )
    theirs = convert_ltx_transformer_checkpoint_to_diffusers(dict(tensors))
    prefix = "model.diffusion_model."
    mapped = {
        to_diffusers("transformer", name.removeprefix(prefix)): tensor for name, tensor in tensors.items()
    }
    assert mapped.keys() == theirs.keys() == ours.keys()
    assert all(mapped[name] is theirs[name] for name in mapped)


@pytest.mark.parametrize("version", VAES)
def test_released_vaes_have_diffusers_tensors(version):
    """Counts of the released VAEs: tensors, and millions of parameters of encoder and decoder."""
    config = {name: value for name, value in VAES[version].items() if not name.startswith("default_")}
    with torch.device("meta"):
        theirs = AutoencoderKLLTXVideo(**config)
    shapes = shapes_of("vae", VAES[version])
    assert shapes == {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert len(shapes) == {"0.9.0": 190, "0.9.1": 294, "0.9.5": 226}[version]
    millions = {
        side: sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith(side)) / 1e6
        for side in ("encoder", "decoder")
    }
    expected = {"0.9.0": (180.4, 238.8), "0.9.1": (180.4, 754.6), "0.9.5": (694.1, 552.8)}[version]
    assert (millions["encoder"], millions["decoder"]) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("size", "tensors", "billions"), [("2b", 715, 1.9234), ("13b", 1215, 13.0426)])
def test_released_transformers_have_diffusers_tensors(size, tensors, billions):
    with torch.device("meta"):
        theirs = LTXVideoTransformer3DModel(**TRANSFORMERS[size])
    shapes = shapes_of("transformer", TRANSFORMERS[size])
    assert shapes == {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert len(shapes) == tensors
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) / 1e9 == pytest.approx(
        billions, abs=5e-5
    )


@pytest.mark.parametrize(
    ("release", "taken_for"), [("0.9.8-2b-distilled", "0.9.5"), ("0.9.8-13b-distilled", "0.9.7")]
)
def test_releases_that_diffusers_takes_for_others(release, taken_for):
    settings = RELEASES[release]
    tensors = official_shapes(settings.size, settings.vae)
    assert infer_diffusers_model_type(dict(tensors)) == f"ltx-video-{taken_for}"


def test_a_lone_vae_that_diffusers_can_t_read():
    alone = {name.removeprefix("vae."): tensor for name, tensor in official_shapes(None, "0.9.5").items()}
    with pytest.raises(KeyError):
        convert_ltx_vae_checkpoint_to_diffusers(alone)
