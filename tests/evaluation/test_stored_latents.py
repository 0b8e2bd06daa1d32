"""The contact sheet of precomputed latents: which rows it has, and what a mask hides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.media_sets import write_clips
from PIL import Image
from tiny import tiny_components

from ltx_diffusers.data.media_sets import find_entries
from ltx_diffusers.data.video import write_image
from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation import stored_latents
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.training.clip_plan import ClipSettings
from ltx_diffusers.training.latent_store import LatentStore
from ltx_diffusers.training.precompute import precompute

SIZE = VideoSize(9, 32, 64)


def test_originals_what_comes_back_references_and_masks_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clips(tmp_path / "set", 3)
    mask = np.zeros((48, 64, 3), np.uint8)
    mask[:, 40:] = 255
    write_image(source / "mask.png", mask)
    rows = [{"path": f"clip{index}.mp4", "caption": f"number {index}"} for index in range(3)]
    rows[2] |= {"reference": ["clip0.mp4", "clip1.mp4"], "mask": "mask.png"}
    (source / "list.json").write_text(json.dumps(rows))
    entries, _ = find_entries(source / "list.json")
    clips = ClipSettings(sizes=(SIZE,))
    vae = tiny_components(causal=True)["vae"]
    precompute(tmp_path / "out", entries, clips=clips, load_vae=lambda: vae)
    store = LatentStore.open(tmp_path / "out")

    drawn = {}

    def sheet(videos: list[np.ndarray], titles: list[str]) -> Image.Image:
        drawn.update(videos=videos, titles=titles)
        return Image.new("RGB", (1, 1))

    def original(record: dict) -> np.ndarray:
        return clips.read(entries[record["entry"]], VideoSize(*record["size"]), record["place"])

    monkeypatch.setattr(stored_latents, "contact_sheet", sheet)
    _, figures = stored_latents.check_latents(store, vae, 2, original)
    assert len(figures) == 2 and all(np.isfinite(figures))
    assert [title.split(",")[0] for title in drawn["titles"]] == [
        "clip0.mp4",
        "decoded",
        "clip2.mp4",
        "decoded",
        "reference 1",
        "reference 2",
        "decoded where nothing is made anew",
    ]
    assert "24 fps | number 2" in drawn["titles"][2]
    first, last = drawn["videos"][0], drawn["videos"][2]
    assert first.shape == (9, 32, 64, 3) and abs(first.mean() - (20 + 3 * 12)) < 4
    assert abs(last.mean() - (80 + 3 * 12)) < 4
    decoded, masked = drawn["videos"][3], drawn["videos"][6]
    assert (masked[:, :, 32:] == 128).all()
    np.testing.assert_array_equal(masked[:, :, :32], decoded[:, :, :32])
    with pytest.raises(InputError, match="another VAE"):
        stored_latents.check_latents(store, tiny_components(causal=True, seed=1)["vae"], 1, original)


def test_a_mask_covers_the_frames_of_its_latents() -> None:
    import torch

    mask = torch.zeros(3, 1, 1)
    mask[1] = 1
    shown = stored_latents._mask_shown(mask, np.zeros((17, 32, 32, 3), np.uint8))
    hidden = [bool(frame.any()) for frame in shown]
    assert hidden == [False] + [True] * 8 + [False] * 8
