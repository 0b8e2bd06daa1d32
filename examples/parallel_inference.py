"""Make one video on several processes: torchrun --nproc-per-node 2 examples/parallel_inference.py "a prompt" --cfg 2

Every process loads the model and makes the same call; the first one writes the file. On a machine without a GPU the
processes are connected by gloo, to try it out.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.utils import load_image

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline
from ltx_diffusers.data.video import write_video
from ltx_diffusers.embedded import embedded_model_path


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--image", help="the first frame")
    parser.add_argument("--output", type=Path, default=Path("out.mp4"))
    parser.add_argument("--model", default=embedded_model_path(), help="a folder or repository")
    parser.add_argument("--cfg", type=int, default=1, help="groups that share the passes of guidance")
    parser.add_argument("--ulysses", type=int, default=1, help="processes that share the tokens, by heads")
    parser.add_argument(
        "--ring", type=int, default=1, help="processes that share the tokens, by keys and values"
    )
    parser.add_argument(
        "--width", type=int, help="in pixels; the model's default if left out, like the next two"
    )
    parser.add_argument("--height", type=int)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def connect() -> torch.device:
    """Connect the processes that torchrun started; gives this one's device."""
    if not torch.cuda.is_available():
        dist.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl")
    return device


def main(words: list[str] | None = None) -> None:
    """Load, share out, generate, write."""
    args = parse_arguments(words)
    device = connect()
    kind = LTXPipeline if args.image is None else LTXImageToVideoPipeline
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    pipe = kind.from_pretrained(args.model, dtype=dtype).to(device)

    config = None
    if args.ulysses * args.ring > 1:
        config = ContextParallelConfig(ulysses_degree=args.ulysses, ring_degree=args.ring)
    pipe.transformer.enable_parallelism(config=config, cfg_degree=args.cfg)
    pipe.vae.enable_parallel_decoding()
    is_first = dist.get_rank() == 0
    pipe.set_progress_bar_config(disable=not is_first)

    given = {} if args.image is None else {"image": load_image(args.image)}
    video = pipe(
        prompt=args.prompt,
        width=args.width,
        height=args.height,
        num_frames=args.frames,
        num_inference_steps=args.steps,
        generator=torch.Generator(device).manual_seed(args.seed),
        output_type="np",
        **given,
    ).frames[0]
    if is_first:
        frames = (video * 255).round().astype("uint8")
        rate = pipe.transformer.config.default_frame_rate or 25.0
        written = write_video(args.output, frames, rate, {"prompt": args.prompt})
        print(f"written: {written}")  # noqa: T201
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
