"""What a run encodes itself: clips of a reader with their references, masks and frame rates, kept or on the fly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.media_sets import blocky_clip

from ltx_diffusers.data.clips import Clip
from ltx_diffusers.data.list_clips import ListClips
from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.data.video import write_image, write_video
from ltx_diffusers.errors import InputError
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.training.sources import EncodedClips, OnTheFly

SIZE = VideoSize(9, 32, 64)


@pytest.fixture(scope="module")
def vae(tiny_vae_folder: Path) -> AutoencoderKLLTX:
    return AutoencoderKLLTX.from_pretrained(tiny_vae_folder)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ListClips:
    """Every second clip has two references and a mask; the others have none."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for name in ("clip", "outline"):
        video = blocky_clip(rng, 12)
        write_video(root / f"{name}.mp4", video, 12)
    write_image(root / "picture.png", video[0])
    half = np.where(np.arange(64)[:, None] < 32, 255, 0)
    write_image(root / "mask.png", np.broadcast_to(half, (32, 64, 3)).astype(np.uint8))
    given = {"reference": ["outline.mp4", "picture.png"], "mask": "mask.png"}
    rows = [{"path": "clip.mp4", "split": "train", "caption": "given"} | given]
    rows += [{"path": "clip.mp4", "split": "train", "caption": "alone"}]
    (root / "pairs.json").write_text(json.dumps(rows))
    return ListClips(*SIZE, path=root / "pairs.json")


def encode(vae: AutoencoderKLLTX, frames: np.ndarray) -> torch.Tensor:
    """Normalised latents (C, F', H', W')."""
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] * 2 - 1
    with torch.no_grad():
        mean = vae.encode(video).latent_dist.mean[0]
    return (mean - vae.latents_mean.view(-1, 1, 1, 1)) / vae.latents_std.view(-1, 1, 1, 1)


def sources(
    vae: AutoencoderKLLTX, clips: object, folder: Path, scale: int | None, size: VideoSize = SIZE
) -> list:
    return [
        EncodedClips(vae, clips, [size], 4, folder, frame_rate=8.0, reference_scale=scale),
        OnTheFly(vae, clips, [size], frame_rate=8.0, reference_scale=scale),
    ]


def test_samples_have_what_goes_with_their_clips(tmp_path, vae, clips) -> None:
    for source in sources(vae, clips, tmp_path, 1):
        kinds = set()
        for number in range(4):
            clip, sample = clips[number], source[number]
            assert sample.frame_rate == 12 and sample.reference_scale == 1
            assert len(sample.references) == len(clip.references) == (2 if clip.caption == "given" else 0)
            for latents, frames in zip(sample.references, clip.references, strict=True):
                # Encoded in bfloat16.
                torch.testing.assert_close(latents, encode(vae, frames), atol=0.05, rtol=0.05)
            kinds.add(clip.caption)
            if clip.caption == "alone":
                assert sample.mask is None
            else:
                assert [latents.shape[1:] for latents in sample.references] == [(2, 1, 2), (1, 1, 2)]
                assert sample.mask.tolist() == [[[1, 0]]] * 2
        assert kinds == {"given", "alone"}


def test_references_are_shrunk_or_left_out_as_the_config_says(tmp_path, vae) -> None:
    size = VideoSize(9, 64, 64)
    reader = ShapeClips(*size, reference="outline")
    shrunk = reader[1].references[0].reshape(9, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    for source in sources(vae, reader, tmp_path, 2, size):
        sample = source[1]
        assert sample.reference_scale == 2
        torch.testing.assert_close(sample.references[0], encode(vae, shrunk), atol=0.05, rtol=0.05)
        assert sample.frame_rate == 8  # the config's: shapes tell none
    assert all(source[1].references == () for source in sources(vae, reader, tmp_path, None, size))


def test_kept_latents_are_not_encoded_again(tmp_path, vae, clips, monkeypatch) -> None:
    first = sources(vae, clips, tmp_path, 1)[0]
    monkeypatch.setattr(vae, "encode", None)
    again = EncodedClips(vae, clips, [SIZE], 4, tmp_path, frame_rate=8.0)
    for number in range(4):
        one, other = first[number], again[number]
        assert len(one.references) == len(other.references) and one.frame_rate == other.frame_rate
        pairs = zip((one.mean, *one.references), (other.mean, *other.references), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
        assert one.mask is other.mask is None or torch.equal(one.mask, other.mask)


class Wrong:
    """A reader whose clips are spoilt in some way."""

    def __init__(self, clips: ShapeClips, **spoilt: object) -> None:
        self.clips, self.spoilt = clips, spoilt
        self.num_frames, self.height, self.width = clips.num_frames, clips.height, clips.width

    def with_size(self, *size: int) -> Wrong:
        return self

    def __getitem__(self, number: int) -> Clip:
        return replace(self.clips[number], **self.spoilt)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"references": (np.zeros((9, 32, 32, 3), np.float32),)}, "reference of clip 0 .*another size"),
        ({"references": (np.zeros((5, 32, 64, 3), np.float32),)}, "reference of clip 0 .*or one frame"),
        ({"mask": np.zeros((9, 32, 32), bool)}, "mask of clip 0 .*another size"),
    ],
    ids=["size", "length", "mask"],
)
def test_what_does_not_fit_its_clip_is_an_error(tmp_path, vae, spoilt, message) -> None:
    reader = Wrong(ShapeClips(*SIZE), **spoilt)
    with pytest.raises(InputError, match=message):
        EncodedClips(vae, reader, [SIZE], 1, tmp_path, frame_rate=8.0)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(InputError, match=message):
        OnTheFly(vae, reader, [SIZE], frame_rate=8.0)[0]


@pytest.mark.parametrize(("scale", "message"), [(3, "must divide every size"), (2, "multiple of 32|must be")])
def test_scales_that_no_reference_can_have_are_refused_at_once(tmp_path, vae, scale, message) -> None:
    with pytest.raises(InputError, match=message):
        EncodedClips(vae, ShapeClips(*SIZE), [SIZE], 1, tmp_path, frame_rate=8.0, reference_scale=scale)
    with pytest.raises(InputError, match=message):
        OnTheFly(vae, ShapeClips(*SIZE), [SIZE], frame_rate=8.0, reference_scale=scale)
    assert not list(tmp_path.iterdir())
