"""What users wait for around a generation, as cases of `benchmarks.run`: import, loading, frames in their hands.

- `import`: a new Python process that imports the library's front, and `import-pipeline`: its text-to-video pipeline.
- `command-help`, `command-generate`: `ltx-diffusers --help`, and a video of the embedded model, each in a new process.
- `load`: a pipeline from a folder in Diffusers' layout, with one number of each page of its weights read, so that what
  is only mapped counts as well. Files and models are in the type measured; `load-cast` begins with files in the other.
- `frames-pil`, `frames-np`: a decoded video as the pipelines give it. `frames-mp4`: as a file, by each library's own
  settings; `frames-mp4-equal`: by the same settings of x264 (preset medium, crf 25).
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import LTXPipeline as DiffusersPipeline
from diffusers.utils import export_to_video
from diffusers.video_processor import VideoProcessor
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from ltx_diffusers import LTXPipeline
from ltx_diffusers.data.encoders import compressed_writer
from ltx_diffusers.data.video import read_video, write_video
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.pipelines.frames import to_bytes, to_output

from .cases import TWO, Case, Models
from .sizes import FRAME_RATE

EQUAL = {"preset": "medium", "crf": "25", "x264-params": "mbtree=0"}
"""Of `frames-mp4-equal`: what `export_to_video` asks for by its default quality, 5 of 10."""


class Alone:
    """Code in a process of its own; `peak_bytes` is the most memory that the last one held, None where it isn't told.

    Both libraries find their bytecode: an environment that forbids writing it would have only what is installed.
    """

    def __init__(self, code: str, folder: Path) -> None:
        self.status = folder / "status"
        told = f"import shutil; shutil.copyfile('/proc/self/status', {str(self.status)!r})"
        # What the system says of a process that has ended counts what this one held when it began.
        code += f"\ntry: {told}\nexcept OSError: pass"
        self.command = [sys.executable, "-W", "ignore", "-c", code]
        self.environment = {
            key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"
        }
        self.environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        self.peak_bytes: int | None = None

    def __call__(self) -> torch.Tensor:
        """Run it once."""
        quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
        process = os.posix_spawn(self.command[0], self.command, self.environment, file_actions=quiet)
        _, status = os.waitpid(process, 0)
        if status != 0:
            raise RuntimeError(f"failed with status {status}: {' '.join(self.command)}")
        lines = self.status.read_text().splitlines() if self.status.is_file() else []
        peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
        self.peak_bytes = peaks[0] if peaks else None
        return torch.ones(1)


def _scratch(models: Models) -> Path:
    """A folder for a run's files."""
    if "scratch" not in models.kept:
        models.kept["scratch"] = Path(tempfile.mkdtemp(prefix="ltx-benchmark-"))
        atexit.register(shutil.rmtree, models.kept["scratch"], ignore_errors=True)
    return models.kept["scratch"]


def _import(name: str | None) -> Callable[[Models, str], Callable]:
    def make(models: Models, target: str) -> Callable[[], torch.Tensor]:
        package = {"ours": "ltx_diffusers", "diffusers": "diffusers"}[target]
        work = Alone(
            f"import {package}" if name is None else f"from {package} import {name}", _scratch(models)
        )
        work()  # writes bytecode, and warms the file cache
        return work

    return make


def _command(*words: str) -> Callable[[Models, str], Callable]:
    def make(models: Models, target: str) -> Callable[[], torch.Tensor]:
        folder = _scratch(models)
        given = [word.format(folder=folder) for word in words]
        return Alone(f"from ltx_diffusers.cli.app import main\nassert main({given!r}) == 0", folder)

    return make


def _text_encoder(channels: int) -> T5EncoderModel:
    """A T5 of four layers that is as wide as the transformer's texts."""
    torch.manual_seed(2)
    return T5EncoderModel(
        T5Config(
            vocab_size=32128,
            d_model=channels,
            d_kv=64,
            d_ff=5 * channels // 2,
            num_layers=4,
            num_heads=max(1, channels // 64),
            feed_forward_proj="gated-gelu",
        )
    )


def _saved(models: Models, dtype: torch.dtype) -> Path:
    """A pipeline's folder, as Diffusers writes it, with weights in `dtype`."""
    folder = _scratch(models) / str(dtype)
    if not folder.is_dir():
        pipeline = DiffusersPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=models.get("vae", "diffusers"),
            text_encoder=_text_encoder(models.size.transformer["caption_channels"]),
            tokenizer=AutoTokenizer.from_pretrained(embedded_model_path() / "tokenizer"),
            transformer=models.get("transformer", "diffusers"),
        )
        pipeline.to(dtype=dtype).save_pretrained(folder)
        pipeline.to(dtype=models.dtype)
    return folder


def _load(cast: bool) -> Callable[[Models, str], Callable]:
    def make(models: Models, target: str) -> Callable[[], torch.Tensor]:
        other = torch.float32 if models.dtype == torch.bfloat16 else torch.bfloat16
        folder = _saved(models, other if cast else models.dtype)
        kind = LTXPipeline if target == "ours" else DiffusersPipeline

        def work() -> torch.Tensor:
            pipeline = kind.from_pretrained(folder, torch_dtype=models.dtype)
            pipeline.to(models.device)
            parts = (pipeline.transformer, pipeline.vae, pipeline.text_encoder)
            weights = [weight.detach() for part in parts for _, weight in sorted(part.named_parameters())]
            if len({weight.dtype for weight in weights}) > 1:
                raise RuntimeError("the weights have several types")
            return torch.stack([weight.reshape(-1)[::1024].float().sum() for weight in weights]).cpu()

        return work

    return make


def _video(models: Models) -> torch.Tensor:
    """A decoded video (1, 3, F, H, W): soft shapes that move, with some grain."""
    if "video" not in models.kept:
        source, (frames, height, width) = torch.Generator().manual_seed(8), models.size.video
        coarse = torch.randn(1, 3, max(2, frames // 8), height // 32, width // 32, generator=source)
        video = torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")
        video += 0.02 * torch.randn(1, 1, frames, height, width, generator=source)
        models.kept["video"] = video.clamp(-1.1, 1.1).to(models.device, models.dtype)
    return models.kept["video"]


def _frames(output_type: str) -> Callable[[Models, str], Callable]:
    def make(models: Models, target: str) -> Callable[[], Any]:
        video, theirs = _video(models), VideoProcessor(vae_scale_factor=32)
        if target == "ours":
            return lambda: to_output(video, output_type)
        return lambda: theirs.postprocess_video(video, output_type)

    return make


def _file(equal: bool) -> Callable[[Models, str], Callable]:
    def make(models: Models, target: str) -> Callable[[], Path]:
        path = _scratch(models) / f"{target}-{'equal' if equal else 'own'}.mp4"
        video, processor = _video(models), VideoProcessor(vae_scale_factor=32)
        write = compressed_writer("mp4", "libx264", EQUAL, {"movflags": "+faststart"})

        def theirs() -> Path:
            frames = processor.postprocess_video(video, "pil")[0]
            return Path(export_to_video(frames, str(path), fps=int(FRAME_RATE)))

        def ours() -> Path:
            pixels = to_bytes(video)[0]
            if equal:
                write(path, pixels, Fraction(FRAME_RATE), None)
                return path
            return write_video(path, pixels, FRAME_RATE)

        return ours if target == "ours" else theirs

    return make


def _in_tensor(frames: Any) -> torch.Tensor:
    """Frames in [0, 1], whatever form they came in."""
    if isinstance(frames, Path):
        return torch.from_numpy(read_video(frames)[0]).float() / 255
    if isinstance(frames, list):
        return torch.from_numpy(np.stack([np.stack(clip) for clip in frames])).float() / 255
    return torch.from_numpy(frames)


def _of_the_file(models: Models, path: Path) -> dict[str, Any]:
    """How large a file is, and how near to the video."""
    exact = (_video(models)[0].permute(1, 2, 3, 0).float().cpu() / 2 + 0.5).clamp(0, 1)
    error = (_in_tensor(path) - exact).square().mean()
    return {"file_kb": round(path.stat().st_size / 1000), "psnr_db": round(-10 * float(error.log10()), 2)}


CASES: dict[str, Case] = {
    "import": Case(_import(None), TWO),
    "import-pipeline": Case(_import("LTXPipeline"), TWO),
    "command-help": Case(_command("--help"), ("ours",)),
    "command-generate": Case(
        _command("generate", "a red circle moving right", "--seed", "0", "-o", "{folder}/video.mp4"),
        ("ours",),
    ),
    "load": Case(_load(False), TWO),
    "load-cast": Case(_load(True), TWO),
    "frames-pil": Case(_frames("pil"), TWO, read=_in_tensor),
    "frames-np": Case(_frames("np"), TWO, read=_in_tensor),
    "frames-mp4": Case(_file(False), TWO, read=_in_tensor, facts=_of_the_file),
    "frames-mp4-equal": Case(_file(True), TWO, read=_in_tensor, facts=_of_the_file),
}
"""Cases by name."""
