"""Diffusers without our package loads what we save in its layout."""

from __future__ import annotations

import json
import subprocess
import sys

import diffusers
import torch
from tiny import tiny_components

from ltx_diffusers import LTXPipeline
from ltx_diffusers.hub.layouts import save_for_diffusers

SIZE = {"height": 64, "width": 64, "num_frames": 9}
CALL = SIZE | {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt"}
TEXT = {
    "prompt_embeds": torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(1)),
    "prompt_attention_mask": torch.ones(1, 4, dtype=torch.bool),
}

ALONE = """
import json, logging, sys, warnings
import diffusers, torch, transformers
diffusers.LTXPipeline, transformers.T5EncoderModel  # their imports may warn about this environment
messages = []
class Keep(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
for library in ("diffusers", "transformers", "py.warnings"):
    logging.getLogger(library).addHandler(Keep(logging.WARNING))
logging.captureWarnings(True)
warnings.simplefilter("always")
call, folders, target = json.loads(sys.argv[1]), sys.argv[2:-1], sys.argv[-1]
text = torch.load(target)
classes, videos = [], []
for folder in folders:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    for name in ("transformer", "vae"):
        diffusers.AutoModel.from_pretrained(folder, subfolder=name)
        classes.append(str(type(getattr(pipeline, name))))
    pipeline.set_progress_bar_config(disable=True)
    videos.append(pipeline(**call, **text, generator=torch.Generator().manual_seed(0)).frames)
torch.save(videos, target)
assert not [name for name in sys.modules if name.startswith("ltx_diffusers")]
print(json.dumps({"messages": messages, "classes": classes}))
"""


def test_diffusers_alone_loads_and_runs_it_without_a_warning(tmp_path):
    """In a new process, for the kinds of releases before 0.9.5 and since."""
    saved = {causal: str(tmp_path / f"causal {causal}") for causal in (False, True)}
    for causal, folder in saved.items():
        pipeline = LTXPipeline(**tiny_components(causal=causal, statistics=True))
        pipeline.transformer.register_to_config(default_frame_rate=12.5)
        save_for_diffusers(pipeline, folder)
    exchange = tmp_path / "exchange.pt"
    torch.save(TEXT, exchange)
    arguments = [json.dumps(CALL), *saved.values(), str(exchange)]
    run = subprocess.run([sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["messages"] == []
    kinds = (diffusers.LTXVideoTransformer3DModel, diffusers.AutoencoderKLLTXVideo)
    assert found["classes"] == [str(kind) for kind in kinds] * 2
    for causal, made in zip(saved, torch.load(exchange), strict=True):
        theirs = diffusers.LTXPipeline(**tiny_components(causal=causal, statistics=True, ours=False))
        theirs.set_progress_bar_config(disable=True)
        expected = theirs(**CALL, **TEXT, generator=torch.Generator().manual_seed(0)).frames
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
