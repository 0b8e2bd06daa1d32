"""`ltx-diffusers reconstruct`: a video or picture through a model's VAE and back, with PSNR and SSIM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Device, Dtype, VAEMemory
from .stages import Stages, peak_memory

if TYPE_CHECKING:
    import numpy as np

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_DECODING_SEED = 0
# Tiles in pixels and frames, each with the distance of their starts; their overlap is blended.
_TILES = {
    "tile_sample_min_height": 256,
    "tile_sample_stride_height": 192,
    "tile_sample_min_width": 256,
    "tile_sample_stride_width": 192,
    "tile_sample_min_num_frames": 64,
    "tile_sample_stride_num_frames": 48,
}


def command(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video or a picture.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="mp4, webm, gif, a folder of frames, or png for a picture.")
    ],
    model: Annotated[
        str, typer.Option(help="A folder (a pipeline or a VAE), a repository owner/name, or embedded.")
    ] = "embedded",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            help="Resize to cover this size, cut evenly at the edges. \\[default: cut to multiples of 32]",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Use the first so many, 8k+1. \\[default: as many of them as fit 8k+1]"),
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Write the original beside the reconstruction.")
    ] = False,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Work in overlapping tiles: less memory for large or long videos.")
    ] = False,
    vae_memory: VAEMemory = None,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Encode a video and decode it again, and say how much was lost."""
    from .loading import is_verbose
    from .settings import parse_size

    with Stages() as stages:
        made = reconstruct_file(
            source,
            output,
            model=model,
            size=None if size is None else parse_size(size),
            num_frames=frames,
            both=side_by_side,
            tiles=tiles,
            vae_memory=vae_memory,
            device=device,
            dtype=dtype,
            stages=stages,
            verbose=is_verbose(context),
        )
    for line in made.lines(stages):
        typer.echo(line)


@dataclass(frozen=True)
class Reconstruction:
    """What came out of a VAE.

    Attributes:
        path: The file written.
        changes: What was cut from the input before, in words.
        shape: (F, H, W) of what was compared.
        psnr: Per frame, in dB, (F,).
        ssim: Per frame, (F,).
    """

    path: Path
    changes: tuple[str, ...]
    shape: tuple[int, int, int]
    psnr: np.ndarray
    ssim: np.ndarray

    def lines(self, stages: Stages) -> list[str]:
        """What to tell the user."""
        frames, height, width = self.shape
        peak = peak_memory()
        memory = "unknown" if peak is None else f"{peak / 1e9:.2f} GB"
        return [
            *self.changes,
            f"PSNR {self.psnr.mean():.2f} dB (worst frame {self.psnr.min():.2f}), "
            f"SSIM {self.ssim.mean():.4f} (worst frame {self.ssim.min():.4f})",
            f"{self.path}: {frames} frame{'s' * (frames > 1)} of {width}x{height}",
            f"{stages.summary()}; in all {sum(stages.seconds.values()):.1f} s; peak memory {memory}",
        ]


def reconstruct_file(
    source: Path,
    output: Path,
    *,
    model: str = "embedded",
    size: tuple[int, int] | None = None,
    num_frames: int | None = None,
    both: bool = False,
    tiles: bool = False,
    vae_memory: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    stages: Stages | None = None,
    verbose: bool = False,
) -> Reconstruction:
    """Send a file through a VAE, write what comes back, and compare them.

    Args:
        source: A video, a folder of frames, or a picture.
        output: The file to write.
        model: A pipeline or a VAE, as `hub.sources.find_model` takes it.
        size: Width and height to fit the input to, multiples of 32; None cuts it to the next lower ones.
        num_frames: Use the first so many, 8k + 1; None uses as many as fit.
        both: Whether to write the original, left, beside the reconstruction.
        tiles: Whether to work in overlapping tiles.
        vae_memory: What the VAE may take to encode and decode, such as "6GB"; None sets no limit.
        device: "auto", or the name of a device.
        dtype: Of the VAE; by default float32 on the CPU and bfloat16 on a GPU.
        stages: Gets the times; a new one if None.
        verbose: Whether the warnings of the libraries below are shown.

    Raises:
        InputError: If anything given can't be used; also `MediaError` and `UnknownNameError`.
        MediaError: If the input can't be read or the output not written.
    """
    from ..data.pictures import side_by_side
    from ..data.video import write_image, write_video
    from ..evaluation.metrics import psnr, ssim
    from ..functional.memory_size import parse_memory
    from .loading import check_device_name, find_vae, load_vae, pick_device, pick_dtype
    from .settings import DTYPES, check_dtype

    check_device_name(device)
    check_dtype(dtype)
    budget = None if vae_memory is None else parse_memory(vae_memory)
    if size is not None or num_frames is not None:
        _check_size(size, num_frames)
    is_picture = _check_output(source, output)
    found, subfolder = find_vae(model)
    stages = Stages() if stages is None else stages
    stages.begin("read")
    original, fps, changes = read_fitting(source, is_picture, size, num_frames)

    stages.begin("load")
    where = pick_device(device)
    vae = load_vae(
        found, subfolder, device=where, dtype=pick_dtype(DTYPES.get(dtype), where), quiet=not verbose
    )
    if tiles:
        vae.enable_tiling(**_TILES)
    if budget is not None:
        vae.enable_memory_budget(budget)
    stages.begin("reconstruct")
    copy = through_vae(vae, original)
    stages.begin("compare")
    figures = psnr(original, copy), ssim(original, copy)
    stages.begin("write")
    shown = side_by_side(original, copy) if both else copy
    if is_picture and output.suffix.lower() == ".png":
        path = write_image(output, shown[0])
    else:
        record = {"reconstruction of": source.name, "model": model, "psnr": figures[0].mean()}
        path = write_video(output, shown, fps, record)
    return Reconstruction(path, tuple(changes), original.shape[:3], *figures)


def through_vae(vae: object, frames: np.ndarray) -> np.ndarray:
    """Frames, uint8 (F, H, W, 3) of a valid size, encoded and decoded again; the decoding noise is seeded."""
    import torch

    from ..evaluation.reconstruction import reconstruct

    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    generator = torch.Generator("cpu").manual_seed(_DECODING_SEED)
    copy = reconstruct(vae, video, generator)[0].permute(1, 2, 3, 0)
    return ((copy + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _check_size(size: tuple[int, int] | None, num_frames: int | None) -> None:
    from ..geometry import check_video_size

    width, height = size or (32, 32)
    check_video_size(1 if num_frames is None else num_frames, height, width)


def _check_output(source: Path, output: Path) -> bool:
    """Check where to write; whether the input is a picture."""
    from ..data.video import check_image_writable, check_writable
    from ..errors import InputError

    is_picture = source.suffix.lower() in _PICTURES
    if is_picture and output.suffix.lower() == ".png":
        check_image_writable(output)
    else:
        check_writable(output)
    if source.exists() and output.exists() and source.samefile(output):
        raise InputError("the output is the input", got=str(output))
    return is_picture


def read_fitting(
    source: Path, is_picture: bool, size: tuple[int, int] | None, num_frames: int | None
) -> tuple[np.ndarray, float, list[str]]:
    """Frames of a size that a VAE takes, the frames per second, and what was changed to get there, in words.

    Args:
        source: The file.
        is_picture: Whether it is a picture rather than a video.
        size: Width and height to fit it to; None cuts it to the next lower multiples of 32.
        num_frames: Use the first so many, 8k + 1; None uses as many as fit.

    Raises:
        InputError: If it is too small or too short.
        MediaError: If it can't be read.
    """
    from ..data.pictures import crop_frames, fit_frames
    from ..data.video import read_image, read_video
    from ..errors import InputError
    from ..geometry import LTX_RATIOS

    if is_picture:
        frames, fps = read_image(source)[None], 1.0
    else:
        frames, fps = read_video(source, num_frames)
    if num_frames is not None and len(frames) < num_frames:
        raise InputError(f"{source} has too few frames", got=len(frames), expected=num_frames)
    changes = []
    ratio = LTX_RATIOS.time
    usable = (len(frames) - 1) // ratio * ratio + 1
    if usable < len(frames):
        changes.append(f"{usable} of {len(frames)} frames are used: the VAE takes {ratio}k+1")
        frames = frames[:usable]
    height, width = frames.shape[1:3]
    if size is not None:
        verb, new_width, new_height, fit = "resized and cut", *size, fit_frames
    else:
        verb, fit = "cut", crop_frames
        new_width = width // LTX_RATIOS.width * LTX_RATIOS.width
        new_height = height // LTX_RATIOS.height * LTX_RATIOS.height
        if not (new_width and new_height):
            raise InputError(
                f"{source} is too small", got=f"{width}x{height}", expected="32x32 or more", fix="give --size"
            )
    if (new_width, new_height) != (width, height):
        changes.append(f"{width}x{height} is {verb} to {new_width}x{new_height}")
        frames = fit(frames, new_height, new_width)
    return frames, fps, changes
