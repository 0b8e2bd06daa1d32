"""A LoRA that teaches the embedded model a new motion: shapes that move diagonally.

Trains the LoRA as `ltx-diffusers train transformer` does, then lets the judge read videos of held-out prompts, without
the LoRA and with it: prompts for the new motion, and the usual ones, which must not get worse. Last, Diffusers' own
pipelines load the LoRA, and their videos are held against ours: `LTXConditionPipeline` with Diffusers' classes for all
parts, which has the time coordinates that the embedded model was trained with, and `LTXPipeline`, which has them if the
transformer is ours. Run from the repository's root:

    python benchmarks/lora_motion.py --run runs/diagonal --output benchmarks/results/lora_motion.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from lora_runs import SIZE, load_pipeline, parse_options, train, write_report, write_sheet

from ltx_diffusers import LTXPipeline
from ltx_diffusers.data.moving_shapes import MOTIONS, NEW_MOTIONS
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.evaluation.judge import ShapesJudge
from ltx_diffusers.evaluation.metrics import psnr
from ltx_diffusers.evaluation.shape_cases import JudgedClip, draw_cases
from ltx_diffusers.evaluation.shapes import evaluate_shapes
from ltx_diffusers.hub.layouts import save_for_diffusers

CONFIG = "configs/lora/diagonal.yaml"
PROMPTS = {"diagonal": NEW_MOTIONS, "the usual motions": MOTIONS}
IN_SHEET = 2
IN_DIFFUSERS = 10
STEPS = 30


def judge(pipe: LTXPipeline, count: int, motions: tuple[str, ...]) -> tuple[dict[str, Any], list[JudgedClip]]:
    """Shares of prompts that come out right, with Wilson's intervals; and the first clips."""
    clips: list[JudgedClip] = []
    report = evaluate_shapes(
        pipe, num_prompts=count, parts=["text-to-video"], motions=motions, on_clip=clips.append
    )
    shares = {
        figure["name"]: {
            "share": round(figure["value"], 3),
            "interval": [round(end, 3) for end in figure["interval"]],
        }
        for figure in report["figures"]
    }
    return shares, clips[:IN_SHEET]


def texts(pipe: LTXPipeline, prompt: str) -> dict[str, torch.Tensor]:
    """A prompt's features as every pipeline takes them. Diffusers' would let the padding leak into them."""
    embeds, mask, negative, negative_mask = pipe.encode_prompt(prompt, "", max_sequence_length=32)
    return {
        "prompt_embeds": embeds,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": negative,
        "negative_prompt_attention_mask": negative_mask,
    }


def in_diffusers(lora: Path) -> dict[str, Any]:
    """Videos of Diffusers' own pipelines with the LoRA, held against ours: read by the judge, and by pixels."""
    ours = load_pipeline(LTXPipeline, lora)
    with tempfile.TemporaryDirectory() as folder:
        theirs = diffusers.LTXPipeline.from_pretrained(
            save_for_diffusers(embedded_model_path(), Path(folder) / "model")
        )
    theirs.load_lora_weights(lora, weight_name="pytorch_lora_weights.safetensors")
    mixed = diffusers.LTXPipeline.from_pipe(load_pipeline(LTXPipeline))
    mixed.load_lora_weights(lora, weight_name="pytorch_lora_weights.safetensors")
    # Uniform noise levels are those of Diffusers' LTXPipeline; the other pipelines have the model's own.
    uniform = {"sigmas": np.linspace(1.0, 1 / STEPS, STEPS).tolist()}
    pairs = {
        "LTXConditionPipeline, all parts of Diffusers": (
            diffusers.LTXConditionPipeline(**theirs.components),
            {},
        ),
        "LTXPipeline, our transformer": (mixed, uniform),
        "LTXPipeline, all parts of Diffusers": (theirs, uniform),
    }
    cases, verdicts = draw_cases(IN_DIFFUSERS, motions=NEW_MOTIONS), ShapesJudge()
    rows = {}
    for name, (pipeline, schedule) in pairs.items():
        pipeline.set_progress_bar_config(disable=True)
        likeness, difference, right = [], 0.0, 0
        for case in cases:
            call = texts(ours, case.prompt) | {
                "height": SIZE.height, "width": SIZE.width, "num_frames": SIZE.frames, "frame_rate": 8,
                "num_inference_steps": STEPS, "guidance_scale": 4.0, "decode_timestep": 0.05,
                "decode_noise_scale": 0.0, "output_type": "np",
            }  # fmt: skip
            expected = ours(**call, **schedule, generator=case.generator()).frames[0]
            made = pipeline(**call, generator=case.generator()).frames[0]
            likeness.append(float(np.minimum(psnr(expected, made), 100).mean()))
            difference = max(difference, float(np.abs(expected - made).max()))
            right += verdicts.read(made).right(case.spec)["motion"]
        rows[name] = {
            "largest_difference_of_a_pixel": float(f"{difference:.2g}"),
            "psnr_to_ours": round(float(np.mean(likeness)), 1),
            "motion": right / len(cases),
        }
        sys.stderr.write(f"{name}: {rows[name]}\n")
    return {"prompts": len(cases), "rows": rows}


def main() -> None:
    """Train, judge, and write the report and the sheet."""
    options: argparse.Namespace = parse_options(__doc__.splitlines()[0], clips=100)
    training = train(CONFIG, options)
    lora = options.run / "model"
    figures: dict[str, Any] = {name: {} for name in PROMPTS}
    sheet = []
    for model, pipe in (("base", load_pipeline(LTXPipeline)), ("LoRA", load_pipeline(LTXPipeline, lora))):
        for name, motions in PROMPTS.items():
            figures[name][model], clips = judge(pipe, options.clips, motions)
            sheet += [(f"{model}: {clip.case.prompt}", clip.frames) for clip in clips]
            sys.stderr.write(f"{name}, {model}: {figures[name][model]}\n")
    write_sheet(sheet, options.sheet)
    write_report(CONFIG, options, training, figures | {"in Diffusers": in_diffusers(lora)})


if __name__ == "__main__":
    main()
