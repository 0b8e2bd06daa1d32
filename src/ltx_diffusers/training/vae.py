"""Training the video VAE: its objectives, and a decoder that also removes noise (paper, section 2.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.pictures import contact_sheet
from ..functional.draws import Draws
from ..functional.latents import denormalize_latents, normalize_latents
from ..geometry import VideoSize, latent_size
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ..models.autoencoders.blocks import ResnetStack
from ..objectives.vae import VAEPass, emphasize_foreground
from ..objectives.vae_objective import PosteriorPass
from .adversaries import Adversaries
from .checkpoints import publish_folder
from .clips import open_clips
from .config import build, load_part
from .learned_parts import has_learned_parts, load_learned_parts, save_learned_parts
from .loop import Adversary
from .processes import join_processes
from .read_ahead import ReadAhead
from .vae_batches import BatchPlan, clips_of_bucket, read_batch
from .vae_config import VAEStage, VAETrainConfig, compose_objectives

__all__ = [
    "VAEStage",
    "VAETask",
    "VAETrainConfig",
    "VAETrainingModule",
    "reconstruct",
    "to_model_range",
    "to_uint8",
]

_STATISTICS_MOMENTUM = 0.02
OBJECTIVES_FOLDER = "objectives"
"""Where in a run's folder the learned parts of its objectives are written."""


class VAETrainingModule(torch.nn.Module):
    """The VAE together with its objectives: one call is one training pass.

    Args:
        vae: The model to train.
        config: Settings of the run.

    Attributes:
        keeps_pass: Whether a pass leaves original, reconstruction and draws in `last_pass`, for an adversary.

    Raises:
        InputError: If an objective of the config isn't one of a VAE, or can't work on this one.
    """

    def __init__(self, vae: AutoencoderKLLTX, config: VAETrainConfig) -> None:
        super().__init__()
        self.vae = vae
        self.config = config
        self.objectives = compose_objectives(config)
        self.trains_encoder = config.train == "all"
        vae.encoder.requires_grad_(self.trains_encoder)
        for block in vae.decoder.modules():
            if isinstance(block, ResnetStack) and len(block.resnets) == 0 and block.time_embedder is not None:
                block.time_embedder.requires_grad_(False)  # nobody reads it; processes wait for its gradient
        self.objectives.setup(vae)
        self.keeps_pass = False
        self.last_pass: tuple[torch.Tensor, torch.Tensor, Draws] | None = None

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Losses (B,) of a batch.

        Args:
            batch: `video` (B, 3, F, H, W) in [-1, 1], the stage's `foreground_weight`, the `step` of the run,
                `captions`, and the samples' `numbers` in the run, which their draws follow from.
            generator: Source of the draws of a batch without numbers.
        """
        video, step, captions = batch["video"], batch.get("step", 0), batch.get("captions")
        if "numbers" in batch:
            draws = Draws.of_samples(self.config.seed, step, batch["numbers"], video.device)
        else:
            draws = Draws.split(generator, len(video))
        with torch.set_grad_enabled(self.trains_encoder and torch.is_grad_enabled()):
            posterior = self.vae.encode(video, return_dict=False)[0]
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        losses = [self.objectives.on_posterior(PosteriorPass(video, mean, logvar, captions), step)]
        if self.training and self.trains_encoder:
            self._follow_statistics(mean.detach())
        latents = mean
        if self.config.sample_posterior:
            latents = mean + torch.exp(0.5 * logvar) * draws.normal(mean.shape[1:])
        if self.training:
            latents = self.objectives.on_latents(latents, draws, step)
        latents, level = self._add_noise(latents, draws)
        reconstruction = self.vae.decode(latents, level, return_dict=False, generator=draws.samples)[
            0
        ].float()
        if self.keeps_pass:
            self.last_pass = (video, reconstruction.detach(), draws)
        emphasis = emphasize_foreground(video, batch["foreground_weight"])
        record = VAEPass(video, reconstruction, mean, logvar, emphasis, latents, level, captions, draws)
        losses.append(self.objectives.on_reconstruction(record, step))
        result = self.objectives.combine(losses, self.vae)
        figures = {
            name: torch.as_tensor(value, device=video.device).float().expand(len(video))
            for name, value in self.objectives.diagnostics().items()
        }
        return figures | result

    def _add_noise(self, latents: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Noise the latents, per sample at a drawn level in normalised space. Levels (B,), None if unconditioned."""
        if not self.vae.config.timestep_conditioning:
            return latents, None
        level = self.config.max_noise_level * draws.uniform()
        clean = draws.uniform() < self.config.clean_share
        level = torch.where(clean, torch.zeros_like(level), level)
        noise = draws.normal(latents.shape[1:])
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
        if config.gradient_checkpointing:
            vae.enable_gradient_checkpointing()
        self.module = VAETrainingModule(vae, config)
        composition = self.module.objectives
        if config.initial_objectives is not None:
            load_learned_parts(composition, Path(config.initial_objectives))
        self.plan = BatchPlan(config.stages, config.seed, join_processes().num_processes * config.accumulate)
        self.total_steps = self.plan.total_steps
        data = config.data
        for bucket in (bucket for stage in config.stages for bucket in stage.all_buckets()):
            size = VideoSize(bucket.num_frames, bucket.height or data.height, bucket.width or data.width)
            composition.check_latents(latent_size(size, vae.compression_ratios))
        adversaries = Adversaries(composition, config.discriminator.start_step)
        self.adversary = None
        if adversaries.critics:
            self.module.keeps_pass = True
            self.adversary = Adversary(
                adversaries, config.discriminator.optimizer, adversaries.first_step, self._adversary_inputs
            )
        self.clips, held_out = open_clips(data), open_clips(data, "held-out")
        self._read = ReadAhead(self._read_share, data.read_ahead, self.total_steps)
        self.validation_frames = [held_out[index].frames for index in range(config.validation_clips)]

    def batch(self, step: int, rank: int, world_size: int) -> dict[str, Any]:
        """This rank's clips of a step; see `VAETrainingModule.forward`."""
        share = self.plan.share(step, rank, world_size)
        read = self._read(step, rank, world_size)
        return {
            "video": to_model_range(read["frames"]),
            "captions": read["captions"],
            "foreground_weight": share.stage.foreground_weight,
            "step": step,
            "numbers": share.numbers,
        }

    def _read_share(self, step: int, rank: int, world_size: int) -> dict[str, Any]:
        return read_batch(self.clips, self.plan.share(step, rank, world_size))

    def describe_sample(self, step: int, rank: int, world_size: int, index: int) -> str:
        """Words that identify a sample's clip."""
        share = self.plan.share(step, rank, world_size)
        return clips_of_bucket(self.clips, share.bucket).name(share.numbers[index])

    @property
    def validation_figures(self) -> tuple[str, ...]:
        """Names of the figures that `validate` gives."""
        return tuple(_validation_levels(self.module.vae))

    def validate(self, folder: Path) -> dict[str, float]:
        """PSNR (dB) at the levels 0, 0.05 and 0.2 of latent noise; a contact sheet of originals above results."""
        vae = self.module.vae
        video = to_model_range(np.stack(self.validation_frames)).to(vae.device)
        figures, rows, titles = {}, [], []
        for name, level in _validation_levels(vae).items():
            reconstruction = torch.cat([reconstruct(vae, clip[None], level) for clip in video])
            error = ((reconstruction - video) / 2).square().flatten(1).mean(1)
            figures[name] = float((-10 * error.log10()).mean())
            if not rows:
                for index, (original, result) in enumerate(zip(video, reconstruction, strict=True)):
                    rows += [to_uint8(original), to_uint8(result)]
                    titles += [f"clip {index}", f"decoded, {-10 * float(error[index].log10()):.1f} dB"]
        contact_sheet(rows, titles, path=folder / "reconstructions.png")
        return figures

    @torch.no_grad()
    def finish(self) -> None:
        """Measure the latent statistics (mean and std of each channel) on training clips.

        The learned parts of objectives are written into the run's folder.
        """
        if has_learned_parts(self.module.objectives):
            with publish_folder(Path(self.config.output) / OBJECTIVES_FOLDER, replace=True) as folder:
                save_learned_parts(self.module.objectives, folder)
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

    def _adversary_inputs(self, step: int) -> dict[str, Any]:
        """Original and reconstruction of the last pass, and its draws, which go on."""
        original, reconstruction, draws = self.module.last_pass
        return {"original": original, "reconstruction": reconstruction, "draws": draws, "step": step}


@torch.no_grad()
def reconstruct(
    vae: AutoencoderKLLTX, video: torch.Tensor, noise_level: float | None, seed: int = 0
) -> torch.Tensor:
    """Encode a clip (B, 3, F, H, W) in [-1, 1] to its most likely latents, noise and decode them, clamp the result.

    All noise, that of the level and what some decoders inject, follows from the seed.
    """
    generator = torch.Generator().manual_seed(seed)
    latents = vae.encode(video).latent_dist.mode()
    level = None
    if noise_level is not None:
        level = torch.full((video.shape[0],), noise_level, device=video.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        latents = normalize_latents(latents, vae.latents_mean, vae.latents_std)
        latents = (1 - noise_level) * latents + noise_level * noise
        latents = denormalize_latents(latents, vae.latents_mean, vae.latents_std)
    return vae.decode(latents, level, generator=generator).sample.clamp(-1, 1)


def _validation_levels(vae: AutoencoderKLLTX) -> dict[str, float | None]:
    """Levels of latent noise that a validation decodes at, by the names of its figures."""
    if not vae.config.timestep_conditioning:
        return {"psnr": None}
    return {"psnr": 0.0, "psnr_at_0.05": 0.05, "psnr_at_0.2": 0.2}


def to_model_range(frames: np.ndarray) -> torch.Tensor:
    """Clips (B, F, H, W, 3) in [0, 1] as (B, 3, F, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).contiguous() * 2 - 1


def to_uint8(video: torch.Tensor) -> np.ndarray:
    """A clip (3, F, H, W) in [-1, 1] as uint8 (F, H, W, 3)."""
    return ((video.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
