"""Training the video VAE: reconstruction, KL, and a decoder that also removes noise (paper, section 2.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from pydantic import Field

from ..data.pictures import contact_sheet
from ..errors import InputError
from ..functional.latents import denormalize_latents, normalize_latents
from ..geometry import LTX_RATIOS, check_video_size
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ..objectives import objectives
from ..objectives.vae import VAEPass, emphasize_foreground
from .clips import open_clips
from .config import RunConfig, StrictModel, build, load_part, share_of_batch

_STATISTICS_MOMENTUM = 0.02


class VAEStage(StrictModel):
    """A part of the run with its own clips.

    Attributes:
        steps: Optimizer steps.
        num_frames: Frames of a clip (8k+1); 1 trains on single frames.
        batch_size: Clips of a step, over all processes.
        foreground_weight: How much more pixels far from the clip's median colour count; 0 counts all alike.
    """

    steps: int = Field(gt=0)
    num_frames: int
    batch_size: int = Field(gt=0)
    foreground_weight: float = Field(default=0.0, ge=0)

    def model_post_init(self, _context: Any) -> None:
        """Check the number of frames. Raises `InputError` naming the nearest valid ones."""
        check_video_size(self.num_frames, LTX_RATIOS.height, LTX_RATIOS.width)


class VAETrainConfig(RunConfig):
    """Config of `ltx-diffusers train vae`.

    Attributes:
        model: Arguments of `AutoencoderKLLTX`.
        initial_weights: Folder of a VAE to start from, or None for random weights.
        train: "all", or "decoder" to leave the encoder and the latent statistics as they are.
        stages: One after the other.
        objectives: Weight of each registered objective.
        max_noise_level: The decoder's latents are noised at a level drawn from [0, this] if it is conditioned on one.
        clean_share: Share of samples whose level is 0.
        statistics_clips: Held-in clips that the latent statistics are measured on at the end.
        validation_clips: Held-out clips that are reconstructed at each validation.
    """

    model: dict[str, Any] = Field(default_factory=dict)
    initial_weights: str | None = None
    train: Literal["all", "decoder"] = "all"
    stages: tuple[VAEStage, ...] = Field(min_length=1)
    objectives: dict[str, float] = Field(default_factory=lambda: {"l1": 1.0, "l2": 1.0, "kl": 1e-4})
    max_noise_level: float = Field(default=0.2, ge=0, le=1)
    clean_share: float = Field(default=0.1, ge=0, le=1)
    statistics_clips: int = Field(default=256, gt=0)
    validation_clips: int = Field(default=8, gt=0)


class VAETrainingModule(torch.nn.Module):
    """The VAE together with its objectives: one call is one training pass.

    Args:
        vae: The model to train.
        config: Settings of the run.

    Raises:
        InputError: If an objective of the config isn't one of a VAE.
    """

    def __init__(self, vae: AutoencoderKLLTX, config: VAETrainConfig) -> None:
        super().__init__()
        self.vae = vae
        self.config = config
        self.terms = {name: objectives.get(name)() for name in config.objectives}
        for name, term in self.terms.items():
            if term.inputs is not VAEPass:
                raise InputError(f"the objective {name!r} is not one of a VAE", fix="choose l1, l2 or kl")
        self.trains_encoder = config.train == "all"
        vae.encoder.requires_grad_(self.trains_encoder)

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Losses (B,) of a batch: `video` (B, 3, F, H, W) in [-1, 1] and the stage's `foreground_weight`."""
        video = batch["video"]
        with torch.set_grad_enabled(self.trains_encoder and torch.is_grad_enabled()):
            posterior = self.vae.encode(video, return_dict=False)[0]
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        if self.training and self.trains_encoder:
            self._follow_statistics(mean.detach())
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        latents = mean + torch.exp(0.5 * logvar) * noise
        latents, level = self._add_noise(latents, generator)
        reconstruction = self.vae.decode(latents, level, return_dict=False)[0].float()
        emphasis = emphasize_foreground(video, batch["foreground_weight"])
        record = VAEPass(video, reconstruction, mean, logvar, emphasis)
        losses = {name: term(record) for name, term in self.terms.items()}
        losses["loss"] = sum(self.config.objectives[name] * loss for name, loss in losses.items())
        return losses

    def _add_noise(
        self, latents: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Noise the latents, per sample at a drawn level in normalised space. Levels (B,), None if unconditioned."""
        if not self.vae.config.timestep_conditioning:
            return latents, None
        batch_size, device = latents.shape[0], latents.device
        level = self.config.max_noise_level * torch.rand(batch_size, generator=generator, device=device)
        clean = torch.rand(batch_size, generator=generator, device=device) < self.config.clean_share
        level = torch.where(clean, torch.zeros_like(level), level)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        share = level[:, None, None, None, None]
        # A copy: the buffers change in place at the next step, while autograd still needs these values.
        mean, std = self.vae.latents_mean.clone(), self.vae.latents_std.clone()
        noised = (1 - share) * normalize_latents(latents, mean, std) + share * noise
        return denormalize_latents(noised, mean, std), level

    @torch.no_grad()
    def _follow_statistics(self, mean: torch.Tensor) -> None:
        """Let the latent statistics follow training as moving averages (measured anew at the end)."""
        flat = mean.transpose(0, 1).flatten(1)
        self.vae.latents_mean.lerp_(flat.mean(1), _STATISTICS_MOMENTUM)
        self.vae.latents_std.lerp_(flat.std(1).clamp(min=1e-3), _STATISTICS_MOMENTUM)


class VAETask:
    """The `Task` (see training/loop.py) of training a VAE. Raises `InputError` for settings that can't work."""

    def __init__(self, config: VAETrainConfig) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        if config.initial_weights is None:
            vae = build(AutoencoderKLLTX, config.model, "model")
        else:
            vae = load_part(AutoencoderKLLTX, config.initial_weights, "initial_weights")
        self.module = VAETrainingModule(vae, config)
        self.total_steps = sum(stage.steps for stage in config.stages)
        for stage in config.stages:  # now, not when a later stage begins
            share_of_batch(stage.batch_size, PartialState().num_processes)
        self.clips, held_out = open_clips(config.data), open_clips(config.data, "held-out")
        self.validation_frames = [held_out[index].frames for index in range(config.validation_clips)]

    def batch(self, step: int, rank: int, world_size: int) -> dict[str, Any]:
        """This rank's clips of a step; see `VAETrainingModule.forward`."""
        stage, indices = self._share(step, rank, world_size)
        clips = self.clips.with_frames(stage.num_frames)
        video = np.stack([clips[index].frames for index in indices])
        return {"video": to_model_range(video), "foreground_weight": stage.foreground_weight}

    def describe_sample(self, step: int, rank: int, world_size: int, index: int) -> str:
        """Words that identify a sample's clip."""
        stage, numbers = self._share(step, rank, world_size)
        return self.clips.with_frames(stage.num_frames).name(numbers[index])

    def validate(self, folder: Path) -> dict[str, float]:
        """PSNR (dB) at the levels 0, 0.05 and 0.2 of latent noise; a contact sheet of originals above results."""
        vae = self.module.vae
        video = to_model_range(np.stack(self.validation_frames)).to(vae.device)
        levels = (0.0, 0.05, 0.2) if vae.config.timestep_conditioning else (None,)
        figures, rows, titles = {}, [], []
        for level in levels:
            reconstruction = torch.cat([reconstruct(vae, clip[None], level) for clip in video])
            error = ((reconstruction - video) / 2).square().flatten(1).mean(1)
            figures["psnr" if not level else f"psnr_at_{level:g}"] = float((-10 * error.log10()).mean())
            if level == levels[0]:
                for index, (original, result) in enumerate(zip(video, reconstruction, strict=True)):
                    rows += [to_uint8(original), to_uint8(result)]
                    titles += [f"clip {index}", f"decoded, {-10 * float(error[index].log10()):.1f} dB"]
        contact_sheet(rows, titles, path=folder / "reconstructions.png")
        return figures

    @torch.no_grad()
    def finish(self) -> None:
        """Measure the latent statistics (mean and std of each channel) on training clips."""
        if self.config.train == "decoder":
            return
        vae = self.module.vae
        means = []
        for index in range(self.config.statistics_clips):
            video = to_model_range(self.clips[index].frames[None]).to(vae.device)
            means.append(vae.encode(video).latent_dist.mean.transpose(0, 1).flatten(1).double())
        flat = torch.cat(means, dim=1)
        vae.latents_mean.copy_(flat.mean(1))
        vae.latents_std.copy_(flat.std(1))

    def export(self, folder: Path) -> None:
        """Save the VAE."""
        self.module.vae.save_pretrained(folder)

    def _share(self, step: int, rank: int, world_size: int) -> tuple[VAEStage, list[int]]:
        """The stage of a step, and the numbers of the clips that a rank takes."""
        first_clip = 0
        for stage in self.config.stages:
            if step < stage.steps:
                break
            step -= stage.steps
            first_clip += stage.steps * stage.batch_size
        size = share_of_batch(stage.batch_size, world_size)
        start = first_clip + step * stage.batch_size + rank * size
        return stage, list(range(start, start + size))


@torch.no_grad()
def reconstruct(
    vae: AutoencoderKLLTX, video: torch.Tensor, noise_level: float | None, seed: int = 0
) -> torch.Tensor:
    """Encode a clip (B, 3, F, H, W) in [-1, 1] to its most likely latents, noise and decode them, clamp the result."""
    latents = vae.encode(video).latent_dist.mode()
    level = None
    if noise_level is not None:
        level = torch.full((video.shape[0],), noise_level, device=video.device)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
        latents = normalize_latents(latents, vae.latents_mean, vae.latents_std)
        latents = (1 - noise_level) * latents + noise_level * noise
        latents = denormalize_latents(latents, vae.latents_mean, vae.latents_std)
    return vae.decode(latents, level).sample.clamp(-1, 1)


def to_model_range(frames: np.ndarray) -> torch.Tensor:
    """Clips (B, F, H, W, 3) in [0, 1] as (B, 3, F, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).contiguous() * 2 - 1


def to_uint8(video: torch.Tensor) -> np.ndarray:
    """A clip (3, F, H, W) in [-1, 1] as uint8 (F, H, W, 3)."""
    return ((video.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
