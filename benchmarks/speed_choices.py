"""What the speeds of a pipeline, Diffusers' step caches and fewer steps cost and bring, on the embedded model.

    python -m benchmarks.speed_choices --prompts 16 --output benchmarks/results/speed_choices.json

Held-out prompts are generated one by one with the model's own settings and the same noise for every choice. Beside the
processor time of one thread: the share of the model's work that was computed (blocks that ran), the latents' relative
distance from the exact ones, the videos' PSNR against the exact ones, and the share that the judge finds right in every
respect. A step cache isn't told apart by the judge before it is far off, so the distance is what to choose by.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import datetime
import io
import json
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

from ltx_diffusers import LTXPipeline
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.evaluation.judge import ShapesJudge
from ltx_diffusers.evaluation.metrics import psnr
from ltx_diffusers.evaluation.shape_cases import ShapeCase, draw_cases, generate_cases
from ltx_diffusers.evaluation.shapes import default_size
from ltx_diffusers.functional.latents import unpack_latents
from ltx_diffusers.pipelines.decoding import decode_latents
from ltx_diffusers.pipelines.frames import to_output

from .measuring import hardware, relative_error, seconds_of
from .run import write

PSNR_LIMIT = 99.0
"""Decibels that count for equal videos."""


@contextlib.contextmanager
def cached(pipeline: Any, config: Any) -> Iterator[None]:
    """A context with one of Diffusers' step caches."""
    pipeline.transformer.enable_cache(config)
    try:
        yield
    finally:
        pipeline.transformer.disable_cache()


@contextlib.contextmanager
def at_speed(pipeline: Any, speed: str) -> Iterator[None]:
    """A context with one of the pipeline's speeds."""
    pipeline.set_speed(speed)
    try:
        yield
    finally:
        pipeline.set_speed("exact")


def mag_ratios(pipeline: Any, case: ShapeCase, steps: int) -> list[float]:
    """MagCache's ratios of this model, from one prompt; Diffusers prints them."""
    printed = io.StringIO()
    config = MagCacheConfig(calibrate=True, num_inference_steps=steps)
    with cached(pipeline, config), contextlib.redirect_stdout(printed):
        generate_cases(pipeline, [case], default_size(pipeline), output_type="latent")
    return ast.literal_eval(next(line for line in printed.getvalue().splitlines() if line.startswith("[1")))


def choices(pipeline: Any, steps: int) -> dict[str, tuple[Callable[[], Any], dict[str, Any]]]:
    """A context and arguments of the call for each choice."""
    ratios = mag_ratios(pipeline, draw_cases(1, seed=1)[0], steps)
    known: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
        "exact": (contextlib.nullcontext, {}),
        "fast": (lambda: at_speed(pipeline, "fast"), {}),
        "fastest": (lambda: at_speed(pipeline, "fastest"), {}),
    }
    for share in (2 / 3, 1 / 2):
        count = round(steps * share)
        known[f"{count} steps"] = (contextlib.nullcontext, {"num_inference_steps": count})
    for threshold in (0.05, 0.1):
        config = FirstBlockCacheConfig(threshold=threshold)
        known[f"FirstBlockCache {threshold}"] = (lambda c=config: cached(pipeline, c), {})
    mag = MagCacheConfig(threshold=0.1, num_inference_steps=steps, mag_ratios=ratios)
    known["MagCache 0.1"] = (lambda: cached(pipeline, mag), {})
    taylor = TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=3,
        taylor_factors_dtype=torch.float32,
        use_lite_mode=True,
    )
    known["TaylorSeer, every other step"] = (lambda: cached(pipeline, taylor), {})
    return known


def measured(pipeline: Any, cases: list[ShapeCase], context: Any, call: dict[str, Any]) -> dict[str, Any]:
    """Latents and videos of all cases, processor time, and blocks that ran."""
    size, runs = default_size(pipeline), [0]

    def count(*_: Any) -> None:
        runs[0] += 1

    hooks = [block.ff.register_forward_pre_hook(count) for block in pipeline.transformer.transformer_blocks]
    latents: list[torch.Tensor] = []
    with context():
        seconds = [
            seconds_of(
                lambda case=case: latents.append(
                    generate_cases(pipeline, [case], size, output_type="latent", **call)
                ),
                torch.device("cpu"),
            )
            for case in cases
        ]
    for hook in hooks:
        hook.remove()
    ratios = pipeline.ratios
    shape = ((size.frames - 1) // ratios.time + 1, size.height // ratios.height, size.width // ratios.width)
    videos = []
    for case, tokens in zip(cases, latents, strict=True):
        video = decode_latents(
            pipeline.vae,
            unpack_latents(tokens, *shape),
            timestep=[0.05],
            noise_scale=[0.025],
            generator=case.generator(),
        )
        videos.append(to_output(video, "np")[0])
    return {"latents": latents, "videos": videos, "seconds": seconds, "blocks": runs[0]}


def main() -> None:
    """Measure every choice, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pipeline = LTXPipeline.from_pretrained(embedded_model_path())
    pipeline.set_progress_bar_config(disable=True)
    steps = pipeline.scheduler.config.default_num_inference_steps
    cases, judge = draw_cases(options.prompts), ShapesJudge()
    generate_cases(pipeline, cases[:1], default_size(pipeline), output_type="latent")  # warm
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": "python -m benchmarks.speed_choices " + " ".join(sys.argv[1:]),
        "hardware": hardware(torch.device("cpu")),
        "versions": {name: metadata.version(name) for name in ("ltx-diffusers", "diffusers", "torch")},
        "prompts": options.prompts,
        "steps": steps,
        "rows": {},
    }
    exact: dict[str, Any] = {}
    for name, (context, call) in choices(pipeline, steps).items():
        with torch.no_grad():
            now = measured(pipeline, cases, context, call)
        exact = exact or now
        pairs = list(zip(now["latents"], exact["latents"], strict=True))
        quality = [
            min(PSNR_LIMIT, float(psnr(before, after).mean()))
            for before, after in zip(exact["videos"], now["videos"], strict=True)
        ]
        right = [judge.read(v).right(c.spec)["all"] for v, c in zip(now["videos"], cases, strict=True)]
        faster = [old / new for old, new in zip(exact["seconds"], now["seconds"], strict=True)]
        report["rows"][name] = {
            "computed": round(now["blocks"] / exact["blocks"], 3),
            "times_faster": round(statistics.median(faster), 2),
            "latent_error": float(f"{statistics.mean(relative_error(a, b) for a, b in pairs):.2e}"),
            "worst_latent_error": float(f"{max(relative_error(a, b) for a, b in pairs):.2e}"),
            "psnr": round(statistics.mean(quality), 1),
            "judged_right": round(statistics.mean(right), 3),
        }
        sys.stderr.write(f"{name}: {json.dumps(report['rows'][name])}\n")
        if options.output is not None:
            write(options.output, json.dumps(report, indent=2) + "\n")
    sys.stdout.write(table(report))
    if options.output is not None:
        write(options.output.with_suffix(".md"), table(report))


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        f"`{report['command']}`, {report['date']}, {report['hardware']['name']}, one thread; {report['prompts']} "
        f"held-out prompts, {report['steps']} steps with guidance.",
        "",
        "| choice | computed | times faster | latent error (worst) | PSNR to exact | judged right |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in report["rows"].items():
        lines.append(
            f"| {name} | {row['computed']:.0%} | {row['times_faster']:.2f} | {row['latent_error']:.1e} "
            f"({row['worst_latent_error']:.1e}) | {row['psnr']:.1f} dB | {row['judged_right']:.0%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
