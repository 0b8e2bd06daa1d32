"""Train a LoRA in a plain loop, with the library's parts: python examples/train_lora.py clips lora

`clips` is a folder of videos with captions in text files, or a list such as `ltx-diffusers data filter` writes. The
command `ltx-diffusers train lora` does the same and more: buckets, more conditions, checkpoints, validation, many
processes. Take this script where you want another loop.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator

from ltx_diffusers import LTXPipeline
from ltx_diffusers.data import data_readers
from ltx_diffusers.data.media_sets import reader_of
from ltx_diffusers.denoising.conditions.first_frame import FirstFrameCondition
from ltx_diffusers.denoising.state import at_noise_level, from_noise, token_levels, velocity_target
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.functional.latents import normalize_latents
from ltx_diffusers.schedulers.densities import timestep_densities
from ltx_diffusers.training.lora import add_lora, write_trained_lora
from ltx_diffusers.training.transformer_config import AdapterConfig


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder, list or tars of captioned clips")
    parser.add_argument("output", type=Path, help="folder of the LoRA")
    parser.add_argument("--model", default=embedded_model_path(), help="a folder or repository")
    parser.add_argument("--num-frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--clips", type=int, default=64, help="clips that are encoded before training")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument(
        "--first-frame-share", type=float, default=0.3, help="samples whose first frame is given"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


@torch.no_grad()
def encode(
    pipe: LTXPipeline, args: argparse.Namespace, device: torch.device
) -> list[dict[str, torch.Tensor]]:
    """Normalised latents and text features of the clips, so that only the transformer is needed to train."""
    reader = data_readers.get(reader_of(args.data))
    clips = reader(args.num_frames, args.height, args.width, seed=args.seed, path=args.data)
    vae, samples = pipe.vae.to(device), []
    pipe.text_encoder.to(device)
    for number in range(args.clips):
        clip = clips[number]
        video = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None].to(device, vae.dtype) * 2 - 1
        latents = vae.encode(video).latent_dist.mean.float()
        scaled = normalize_latents(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        text, mask, _, _ = pipe.encode_prompt(clip.caption, do_classifier_free_guidance=False)
        rate = torch.tensor([clip.frame_rate or 25.0])
        samples.append({"latents": scaled.cpu(), "text": text.cpu(), "mask": mask.cpu(), "rate": rate})
    vae.cpu()
    pipe.text_encoder.cpu()
    return samples


def loss_of(
    pipe: LTXPipeline,
    transformer: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    first_frame_share: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Rectified flow's loss of a batch: the model predicts noise minus latents, at a noise level between."""
    latents = batch["latents"]
    count = len(latents)

    def draw(kind: str, *shape: int) -> torch.Tensor:
        return getattr(torch, kind)(shape, generator=generator).to(latents.device)

    causal = pipe.transformer.config.causal_temporal_positioning
    placement = Placement(batch["rate"], causal, pipe.ratios)
    state = from_noise(draw("randn", *latents.shape), placement, clean=latents)
    # As at inference: the frame's tokens stay clean, at noise level 0, and nothing is learnt on them.
    is_given = (draw("rand", count) < first_frame_share).float()
    state = FirstFrameCondition(latents[:, :, :1], is_given).apply_to(state)
    density = timestep_densities.get("logit-normal")()
    sigma = density.sample(count, num_tokens=state.tokens.shape[1], generator=generator).to(latents.device)
    noised = at_noise_level(state, sigma)
    predicted = transformer(
        hidden_states=noised.tokens,
        encoder_hidden_states=batch["text"],
        encoder_attention_mask=batch["mask"],
        timestep=token_levels(state, sigma) * 1000,
        video_coords=state.coords,
        return_dict=False,
    )[0]
    error = (predicted.float() - velocity_target(state)) ** 2
    return error[state.strength == 0].mean()


def main(words: list[str] | None = None) -> None:
    """Encode, train, write."""
    args = parse_arguments(words)
    accelerator = Accelerator()
    pipe = LTXPipeline.from_pretrained(args.model)
    samples = encode(pipe, args, accelerator.device)
    add_lora(pipe.transformer, AdapterConfig(rank=args.rank))
    trained = [parameter for parameter in pipe.transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.01)
    transformer, optimizer = accelerator.prepare(pipe.transformer.train(), optimizer)
    # Each process draws its own clips and noise.
    generator = torch.Generator().manual_seed(args.seed + 1000 * accelerator.process_index)
    for step in range(args.steps):
        chosen = torch.randint(len(samples), (args.batch_size,), generator=generator).tolist()
        batch = {
            name: torch.cat([samples[number][name] for number in chosen]).to(accelerator.device)
            for name in samples[0]
        }
        loss = loss_of(pipe, transformer, batch, args.first_frame_share, generator)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step + 1 == args.steps:
            accelerator.print(f"step {step + 1}: loss {loss.item():.4f}")
    if accelerator.is_main_process:
        args.output.mkdir(parents=True, exist_ok=True)
        write_trained_lora(accelerator.unwrap_model(transformer), args.output, torch.float32, {})
        accelerator.print(
            f"written: {args.output}; load it with pipe.load_lora_weights({str(args.output)!r})"
        )


if __name__ == "__main__":
    main()
