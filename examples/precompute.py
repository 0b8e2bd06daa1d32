"""Write latents and text features of clips in a plain loop: python examples/precompute.py clips latents

`clips` is a folder of videos with captions in text files, or a list such as `ltx-diffusers data filter` writes. Each
clip becomes a safetensors file that needs neither VAE nor text encoder to train on. The command
`ltx-diffusers precompute` does the same and more: several sizes, of which each clip gets its own, shards, several
processes, going on after an interruption. Take this script where you want another format.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from ltx_diffusers import LTXPipeline
from ltx_diffusers.data import data_readers
from ltx_diffusers.data.clips import Clip
from ltx_diffusers.data.media_sets import reader_of
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.functional.latents import normalize_latents


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder, list or tars of captioned clips")
    parser.add_argument("output", type=Path, help="folder of the latents")
    parser.add_argument("--model", default=embedded_model_path(), help="a folder or repository")
    parser.add_argument("--num-frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--caption-prefix", default="", help="put before every caption")
    return parser.parse_args(words)


@torch.no_grad()
def encode(pipe: LTXPipeline, clip: Clip, prefix: str) -> dict[str, torch.Tensor]:
    """What training needs of a clip.

    Returns:
        `mean` and `deviation` (C, F', H', W') of the posterior by the VAE's statistics, from which training draws
        latents anew at each step; `text` (T, D) without padding; `frame_rate` (1,).
    """
    vae = pipe.vae
    video = torch.from_numpy(clip.frames).permute(3, 0, 1, 2)[None].to(vae.device, vae.dtype) * 2 - 1
    posterior = vae.encode(video).latent_dist
    factor = vae.config.scaling_factor
    mean = normalize_latents(posterior.mean.float(), vae.latents_mean, vae.latents_std, factor)
    # Statistics move the mean of a distribution, but not its width.
    deviation = normalize_latents(
        posterior.std.float(), torch.zeros_like(vae.latents_mean), vae.latents_std, factor
    )
    text, mask, _, _ = pipe.encode_prompt(prefix + clip.caption, do_classifier_free_guidance=False)
    return {
        "mean": mean[0].cpu(),
        "deviation": deviation[0].cpu(),
        "text": text[0][mask[0].bool()].cpu(),
        "frame_rate": torch.tensor([clip.frame_rate or 25.0]),
    }


def main(words: list[str] | None = None) -> None:
    """Encode and write; files that are there already stay."""
    args = parse_arguments(words)
    reader = data_readers.get(reader_of(args.data))
    clips = reader(args.num_frames, args.height, args.width, seed=0, path=args.data)
    pipe = LTXPipeline.from_pretrained(args.model)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    args.output.mkdir(parents=True, exist_ok=True)
    for number in range(args.clips):
        path = args.output / f"{number:06d}.safetensors"
        if path.exists():
            continue
        clip = clips[number]
        partial = path.with_suffix(".partial")
        remarks = {"caption": args.caption_prefix + clip.caption, "name": clip.name}
        save_file(encode(pipe, clip, args.caption_prefix), partial, metadata=remarks)
        partial.replace(path)  # whole or not at all
    print(f"written: {args.output}")  # noqa: T201


if __name__ == "__main__":
    main()
