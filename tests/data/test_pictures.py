"""Contact sheets, side by side, and fitting to a size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx_diffusers.data.pictures import contact_sheet, fit_frames, side_by_side
from ltx_diffusers.errors import InputError


def flat_clip(frames: int, height: int, width: int) -> np.ndarray:
    """A clip whose frame number f is filled with the grey value 100 + f."""
    values = np.arange(100, 100 + frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (frames, height, width, 3)).copy()


def greys_in_row(sheet: np.ndarray, y: int) -> list[int]:
    """The distinct clip values met from left to right on one line of a sheet, (H, W, 3)."""
    values = [int(value) for value in sheet[y, :, 0] if 100 <= value < 200]
    return list(dict.fromkeys(values))


def test_sheet_shows_first_to_last_frame_of_each_clip(tmp_path: Path) -> None:
    clips = [flat_clip(25, 32, 48), flat_clip(3, 16, 16)]
    sheet = contact_sheet(clips, None, columns_frames=5, path=tmp_path / "sheet.png")
    pixels = np.asarray(sheet)
    assert greys_in_row(pixels, 8 + 16) == [100, 106, 112, 118, 124]
    assert greys_in_row(pixels, 8 + 32 + 8 + 8) == [100, 101, 102]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), pixels)


def test_titles_are_drawn_above_their_row_and_widen_the_sheet() -> None:
    clip = flat_clip(1, 16, 16)
    plain, titled = contact_sheet([clip]), contact_sheet([clip], ["a small red circle moves left"])
    assert titled.height > plain.height and titled.width > plain.width
    band = np.asarray(titled)[8:28]
    assert band.max() > 200 and band.min() < 40


def test_sheet_checks_its_input() -> None:
    clip = flat_clip(1, 16, 16)
    for arguments, message in [
        (([],), "at least one"),
        (([clip], ["a", "b"]), "match"),
        (([clip], None, 0), "positive"),
        (([clip.astype(np.float32)],), "uint8"),
        (([clip[0]],), "uint8"),
    ]:
        with pytest.raises(InputError, match=message):
            contact_sheet(*arguments)


def test_side_by_side() -> None:
    left, right = flat_clip(3, 4, 6), 255 - flat_clip(3, 4, 6)
    both = side_by_side(left, right)
    assert both.shape == (3, 4, 12, 3)
    assert np.array_equal(both[:, :, :6], left) and np.array_equal(both[:, :, 6:], right)
    with pytest.raises(InputError, match="one shape"):
        side_by_side(left, right[:2])


def test_fit_keeps_proportions_and_cuts_the_middle() -> None:
    """A 3:1 picture in three colours fitted to a square shows the middle third only."""
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[:, :32, 0] = picture[:, 32:64, 1] = picture[:, 64:, 2] = 255
    for side in (32, 64):
        fitted = fit_frames(picture, side, side)
        assert fitted.shape == (side, side, 3)
        assert np.array_equal(fitted[side // 2, side // 2], (0, 255, 0))
    assert np.array_equal(fit_frames(picture, 32, 32), picture[:, 32:64])
    tall = fit_frames(picture.transpose(1, 0, 2)[None], 32, 32)
    assert np.array_equal(tall[0], picture[:, 32:64].transpose(1, 0, 2))


def test_fit_of_the_right_size_changes_nothing() -> None:
    clip = flat_clip(2, 32, 64)
    assert fit_frames(clip, 32, 64) is clip


def test_fit_does_not_alias_when_it_shrinks() -> None:
    """A one-pixel chequerboard becomes grey, not one of its colours."""
    board = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = fit_frames(np.repeat(board[..., None], 3, axis=2), 32, 32)
    assert np.abs(small[4:-4, 4:-4].astype(int) - 127).max() <= 4
