"""Train a video VAE in a plain loop, with the library's parts: python examples/train_vae.py clips vae

`clips` is a folder of videos, or a list such as `ltx-diffusers data filter` writes. As it stands, the decoder of a
finished VAE is trained on, so that its latents stay what a transformer knows; `--train-encoder` trains all of it. The
command `ltx-diffusers train vae` does the same and more: stages, sizes mixed, discriminators, a moving average,
checkpoints, validation. Take this script where you want another loop or another loss.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.data import data_readers
from ltx_diffusers.data.clips import ClipReader
from ltx_diffusers.data.media_sets import reader_of
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.functional.latents import denormalize_latents, normalize_latents
from ltx_diffusers.objectives import objectives
from ltx_diffusers.objectives.composition import Composition, Term
from ltx_diffusers.objectives.vae import VAEPass

STATISTICS_CLIPS = 64


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder, list or tars of clips")
    parser.add_argument("output", type=Path, help="folder of the VAE")
    parser.add_argument("--vae", default=embedded_model_path() / "vae", help="a folder or repository")
    parser.add_argument("--num-frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--train-encoder", action="store_true", help="latents change, and their statistics")
    parser.add_argument("--noise", type=float, default=0.2, help="highest noise level of the latents")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


class TrainedVAE(torch.nn.Module):
    """A VAE and its losses: one call is one training pass, which is what processes have to agree on.

    Args:
        vae: The model.
        trains_encoder: Whether the encoder is trained, too.
        noise: Highest noise level, for a decoder that also takes noise away.
    """

    def __init__(self, vae: AutoencoderKLLTX, trains_encoder: bool, noise: float) -> None:
        super().__init__()
        self.vae, self.trains_encoder, self.noise = vae, trains_encoder, noise
        vae.encoder.requires_grad_(trains_encoder)
        weights = {"l1": 1.0, "wavelet": 0.5, "kl": 3e-4 if trains_encoder else 0.0}
        self.losses = Composition(
            {name: Term(objectives.get(name)(), weight) for name, weight in weights.items()}
        )
        self.losses.setup(vae)

    def forward(self, video: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Losses (B,) of clips (B, 3, F, H, W) in [-1, 1]: "loss", and each term by its name."""
        with torch.set_grad_enabled(self.trains_encoder):
            posterior = self.vae.encode(video).latent_dist
        drawn = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        latents, level = self.noised(posterior.mean + posterior.std * drawn, generator)
        reconstruction = self.vae.decode(latents, level, return_dict=False)[0]
        record = VAEPass(
            video, reconstruction, posterior.mean, posterior.logvar, latents=latents, noise_level=level
        )
        step = 0  # all terms count from the start
        found = [
            self.losses.on_posterior(record.posterior, step),
            self.losses.on_reconstruction(record, step),
        ]
        return self.losses.combine(found, self.vae)

    def noised(
        self, latents: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Latents with noise at a level drawn for each clip, and the levels (B,), if the decoder takes it away."""
        if not self.vae.config.timestep_conditioning:
            return latents, None
        level = (self.noise * torch.rand(len(latents), generator=generator)).to(latents)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        mean, std = self.vae.latents_mean, self.vae.latents_std
        share = level.view(-1, 1, 1, 1, 1)
        mixed = (1 - share) * normalize_latents(latents, mean, std) + share * noise
        return denormalize_latents(mixed, mean, std), level


def batch_of(clips: ClipReader, numbers: list[int], device: torch.device) -> torch.Tensor:
    """Clips (B, 3, F, H, W) in [-1, 1]."""
    frames = torch.stack([torch.from_numpy(clips[number].frames) for number in numbers])
    return frames.permute(0, 4, 1, 2, 3).to(device) * 2 - 1


@torch.no_grad()
def measure_statistics(vae: AutoencoderKLLTX, clips: ClipReader, count: int) -> None:
    """Note mean and deviation of each latent channel, by which a transformer's latents are normalised."""
    means = [
        vae.encode(batch_of(clips, [number], vae.device)).latent_dist.mean.transpose(0, 1).flatten(1)
        for number in range(count)
    ]
    flat = torch.cat(means, dim=1).float()
    vae.latents_mean.copy_(flat.mean(1))
    vae.latents_std.copy_(flat.std(1))


def main(words: list[str] | None = None) -> None:
    """Read, train, write."""
    args = parse_arguments(words)
    accelerator = Accelerator()
    clips = data_readers.get(reader_of(args.data))(
        args.num_frames, args.height, args.width, seed=args.seed, path=args.data
    )
    vae = AutoencoderKLLTX.from_pretrained(args.vae)
    trained = TrainedVAE(vae, args.train_encoder, args.noise)
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.99))
    trained, optimizer = accelerator.prepare(trained.train(), optimizer)
    generator = torch.Generator().manual_seed(args.seed + 1000 * accelerator.process_index)
    for step in range(args.steps):
        # A set has a clip for every number, and each process its own numbers.
        first = (step * accelerator.num_processes + accelerator.process_index) * args.batch_size
        video = batch_of(clips, list(range(first, first + args.batch_size)), accelerator.device)
        losses = trained(video, generator)
        accelerator.backward(losses["loss"].mean())
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step + 1 == args.steps:
            accelerator.print(f"step {step + 1}: loss {losses['loss'].mean().item():.4f}")
    if accelerator.is_main_process:
        if args.train_encoder:
            measure_statistics(vae.eval(), clips, STATISTICS_CLIPS)
        vae.save_pretrained(args.output)
        accelerator.print(f"written: {args.output}; look at it with `ltx-diffusers evaluate reconstruction`")


if __name__ == "__main__":
    main()
