"""Videos from settings: everything checked first, the model loaded once, the video and its record written."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..functional.memory_size import parse_memory
from .enhancing import Writer
from .given_media import follow, joined, read_media
from .records import check_not_given, check_record_replaceable, record_of, record_path, write_record
from .settings import DTYPES, NO_PRESET, Settings
from .stages import Stages, peak_memory

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Made:
    """A video that was made.

    Attributes:
        path: Where it is.
        record_path: Where its record is.
        settings: With nothing left open.
        num_frames: Frames that were written.
        num_steps: Denoising steps that were run.
        peak_bytes: Most main memory held, None where the system can't say.
        peak_gpu_bytes: Most memory held on a GPU, None without one.
        notes: What was done for the speed, in words.
    """

    path: Path
    record_path: Path
    settings: Settings
    num_frames: int
    num_steps: int
    peak_bytes: int | None
    peak_gpu_bytes: int | None
    notes: tuple[str, ...] = ()

    def summary(self, stages: Stages) -> str:
        """What was made, how long each stage took and how much memory was needed, in two lines, and of the speed."""
        made = self.settings
        memory = [] if self.peak_bytes is None else [f"{self.peak_bytes / 1e9:.2f} GB"]
        memory += [] if self.peak_gpu_bytes is None else [f"{self.peak_gpu_bytes / 1e9:.2f} GB on the GPU"]
        preset = "" if made.preset in (None, NO_PRESET) else f" of preset {made.preset}"
        return (
            f"{self.path}: {self.num_frames} frames of {made.width}x{made.height} at {made.frame_rate:g} fps, "
            f"{self.num_steps} steps{preset}, seed {made.seed} (settings in {self.record_path})\n"
            f"{stages.summary()}; in all {sum(stages.seconds.values()):.1f} s; "
            f"peak memory {' and '.join(memory) or 'unknown'}"
        ) + "".join(f"\n{note}" for note in self.notes)


def default_output(output: Path | None, format: str | None) -> Path:
    """Where to write: as asked for, or `out` with the ending of the format."""
    from ..data.video import FORMATS

    return output if output is not None else Path(f"out{FORMATS.get(format or 'mp4', '')}")


class Maker:
    """Makes videos; a model stays loaded as long as the settings ask for the same one.

    Args:
        device: "auto", or the name of a device.
        verbose: Whether the warnings of the libraries below are shown, and tracebacks of errors.
        vae_memory: What the VAE may take to encode and decode, such as "6GB"; None sets no limit.
        prompt_cache: Folder where features of prompts are kept; None keeps none.

    Raises:
        InputError: If that is no size.
    """

    def __init__(
        self,
        device: str = "auto",
        *,
        verbose: bool = False,
        vae_memory: str | None = None,
        prompt_cache: Path | None = None,
    ) -> None:
        self._device = device
        self._prompt_cache = prompt_cache
        self._vae_memory = None if vae_memory is None else parse_memory(vae_memory)
        self.verbose = verbose
        self._loaded: tuple[tuple, Any] | None = None
        self._upsampler: tuple[tuple, Any] | None = None
        self._writer = Writer()

    def check_device(self) -> None:
        """Check that the device is there; imports torch only for one that may not be.

        Raises:
            InputError: If it isn't.
        """
        from .loading import AUTO, check_device_name, pick_device

        check_device_name(self._device)
        if self._device not in (AUTO, "cpu"):
            pick_device(self._device)

    def make(
        self,
        settings: Settings,
        output: Path,
        *,
        format: str | None = None,
        stages: Stages | None = None,
        remarks: Mapping[str, Any] | None = None,
    ) -> Made:
        """Make a video file. Everything that can be checked without torch is checked first, and nothing written.

        Args:
            settings: What to make; what is None is taken from the model, a random seed is drawn.
            output: The file, or the folder of frames.
            format: As `data.video.write_video` takes it.
            stages: Gets the times; a new one if None.
            remarks: More that is written into the record.

        Raises:
            InputError: If anything given can't be used; also `MediaError` and `UnknownNameError`.
            MediaError: If the output can't be written.
        """
        from ..data.frame_stream import FrameStream
        from ..data.video import check_writable, write_video
        from .loading import check_device_name, find_pipeline, find_upsampler, pick_device, pick_dtype

        settings.check()
        format = check_writable(output, format)
        check_not_given(output, settings)
        record_file = record_path(output)
        check_record_replaceable(record_file)
        check_device_name(self._device)
        source = find_pipeline(settings.model, settings.text_encoder)
        between = None if settings.upsampler is None else find_upsampler(settings.upsampler)
        stages = Stages() if stages is None else stages
        if settings.given_files():
            stages.begin("read")
        media = read_media(settings)
        settings = follow(settings.hashed(), media)

        stages.begin("load")
        _check_names(settings)
        where = pick_device(self._device)
        dtype = pick_dtype(DTYPES.get(settings.dtype), where)
        settings = replace(
            settings,
            seed=secrets.randbelow(2**32) if settings.seed is None else settings.seed,
            dtype=str(dtype).removeprefix("torch."),
        )
        if where.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(where)
        stages.wait_for(where)
        if settings.enhance is not None:
            stages.begin("prompt")
        settings, written = self._writer.written(settings, media, where, quiet=not self.verbose)
        stages.begin("load")
        pipeline = self._pipeline(source, settings, where, dtype)
        upsampler = None
        if between is not None:
            upsampler = self._load_upsampler(between, pipeline, where, dtype)
        from .running import run_pipeline

        notes = () if settings.speed is None else pipeline.set_speed(settings.speed)
        settings, frames, steps = run_pipeline(pipeline, settings, media, stages, upsampler=upsampler)

        if settings.join:
            frames = joined(settings, media, frames)
        if not isinstance(frames, FrameStream):  # a stream is decoded while it is written, and says so itself
            stages.begin("write")
        record = record_of(settings) | written | dict(remarks or {})
        path = write_video(output, frames, settings.frame_rate, record, format)
        write_record(record_file, record)
        said = speed_notes(settings.speed, notes, pipeline.num_foretold_steps)
        peaks = peak_memory(), _gpu_peak(where)
        return Made(path, record_file, settings, len(frames), steps, *peaks, said)

    def _pipeline(
        self, source: Path | str, settings: Settings, device: torch.device, dtype: torch.dtype
    ) -> Any:
        """The model's pipeline with its LoRAs, the loaded one if it is the same."""
        from .loading import load_loras, load_pipeline

        # A speed may change weights for good.
        key = (source, settings.text_encoder, settings.version, dtype, settings.loras, settings.speed)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the old one's memory may be needed for the new one
            pipeline = load_pipeline(
                source,
                class_name="LTXConditionPipeline",
                device=device,
                dtype=dtype,
                text_encoder=settings.text_encoder,
                version=settings.version,
                vae_memory=self._vae_memory,
                prompt_cache=self._prompt_cache,
                keep_text_encoder="auto",
                quiet=not self.verbose,
            )
            load_loras(pipeline, settings.loras)
            self._loaded = (key, pipeline)
        return self._loaded[1]

    def _load_upsampler(
        self, source: tuple[Path | str, str | None], pipeline: Any, device: torch.device, dtype: torch.dtype
    ) -> Any:
        """The upsampler between two stages, the loaded one if it is the same."""
        from ..errors import InputError
        from .loading import load_upsampler

        key = (*source, dtype)
        if self._upsampler is None or self._upsampler[0] != key:
            loaded = load_upsampler(*source, device=device, dtype=dtype, quiet=not self.verbose)
            self._upsampler = (key, loaded)
        upsampler = self._upsampler[1]
        config, channels = upsampler.config, pipeline.vae.config.latent_channels
        if config.in_channels != channels or not config.spatial_upsample or config.temporal_upsample:
            raise InputError(
                "this upsampler can't stand between the two stages",
                got=f"{config.in_channels} channels, in {'time' if config.temporal_upsample else 'space'}",
                expected=f"one in space, of {channels} channels",
            )
        return upsampler


def speed_notes(speed: str | None, notes: Sequence[str], foretold: int) -> tuple[str, ...]:
    """What to tell the user of a speed, if one was asked for."""
    if speed is None:
        return ()
    counted = f" ({foretold} steps were)" if foretold else ""
    return (f"speed {speed}: {notes[0]}{counted}" + "".join(f"; {note}" for note in notes[1:]),)


def generate(
    settings: Settings,
    output: Path,
    *,
    format: str | None = None,
    device: str = "auto",
    stages: Stages | None = None,
    verbose: bool = False,
) -> Made:
    """Make one video file; see `Maker` and `Maker.make`."""
    return Maker(device, verbose=verbose).make(settings, output, format=format, stages=stages)


def _check_names(settings: Settings) -> None:
    """Look up what is registered by name, before a model is loaded; imports torch.

    Raises:
        UnknownNameError: If there is no such preset or sampler.
        InputError: If there is no such rule for strengths.
    """
    from ..denoising.samplers import samplers
    from ..denoising.state import check_strength_rule
    from ..pipelines.presets import get_preset

    if settings.sampler is not None:
        samplers.get(settings.sampler)
    if settings.preset not in (None, NO_PRESET):
        get_preset(settings.preset)
    if settings.strength_rule is not None:
        check_strength_rule(settings.strength_rule)


def _gpu_peak(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated(device)
