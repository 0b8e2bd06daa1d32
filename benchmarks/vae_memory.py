"""Memory of a training step of the VAE, counted without a device that has it.

The step of a config (`configs/vae/ltx.yaml` by default: the VAE's forward and backward pass with all objectives, its
AdamW, the moving average, then the discriminators' pass and AdamW) runs on PyTorch's fake tensors, which have the meta
device's shapes and no data. Counted are all storages alive at a time, so that the peak includes what kernels return
for a moment but not the workspaces inside of them, and apart from that what autograd keeps for the backward pass
(`saved_tensors_hooks`). LPIPS is stood in for by a network of VGG16's shape, so that no weights are needed.

`--check` runs a narrow model for real, in processes of its own on the CPU, and puts the counted beside the measured
growth of the resident set. Run from the repository's root:

    python benchmarks/vae_memory.py --check --output benchmarks/results/vae_memory.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from counting import (
    GIB,
    LiveMemory,
    bytes_of,
    describe_run,
    forget_peak,
    gib,
    measured_alone,
    numbers,
    peak_resident,
    resident,
    write_report,
)
from diffusers.training_utils import EMAModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.objectives import objectives
from ltx_diffusers.objectives.perceptual import Perceptual
from ltx_diffusers.training.adversaries import Adversaries
from ltx_diffusers.training.config import load_config, parse_config
from ltx_diffusers.training.optimizer import build_optimizers
from ltx_diffusers.training.vae import VAETrainConfig, VAETrainingModule

CONFIG = Path("configs/vae/ltx.yaml")
CASES = [  # width x height x frames, precision, gradient checkpointing
    ("768x512x17", "fp32", False),
    ("768x512x17", "fp32", True),
    ("768x512x17", "bf16", False),
    ("768x512x17", "bf16", True),
    ("256x256x17", "bf16", False),
    ("256x256x17", "bf16", True),
    ("256x256x33", "bf16", True),
    ("512x512x1", "bf16", True),
]
NARROW = {
    "block_out_channels": [32, 64, 128, 128],
    "decoder_block_out_channels": [64, 128, 256],
}
CHECK_SIZE = "128x96x17"


class VGGShape(nn.Module):
    """Distances (N,) of frames in a frozen network with the layers of VGG16 up to relu5_3, as in LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        stages = [(3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3)]
        self.stages = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(given if layer == 0 else made, made, 3, padding=1) for layer in range(count)
            )
            for given, made, count in stages
        )

    def forward(self, result: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """Distances of two batches of frames (N, 3, H, W)."""
        total: torch.Tensor | float = 0.0
        for index, stage in enumerate(self.stages):
            if index:
                result, original = F.max_pool2d(result, 2), F.max_pool2d(original, 2)
            for conv in stage:
                result, original = F.relu(conv(result)), F.relu(conv(original))
            difference = F.normalize(result, dim=1) - F.normalize(original, dim=1)
            total = total + difference.square().sum(1).mean((1, 2))
        return total


class LPIPSInShape(Perceptual):
    """Takes the place of the objective `lpips`."""

    def __init__(self, network: str = "vgg", package: str = "lpips", chunk: int | None = None) -> None:
        super().__init__(VGGShape(), chunk)


@dataclass
class Saved:
    """What autograd keeps: storages that aren't parameters' or buffers', each counted once."""

    module: nn.Module
    bytes: int = 0
    _seen: set[int] = field(default_factory=set)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is saved inside."""
        own = {t.untyped_storage()._cdata for t in (*self.module.parameters(), *self.module.buffers())}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own and storage._cdata not in self._seen:
                self._seen.add(storage._cdata)
                self.bytes += storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


class Step:
    """Everything that a process holds in training, and its steps.

    Args:
        config: The run's.
        size: Width, height and frames of the clip.
        batch_size: Clips.
    """

    def __init__(self, config: VAETrainConfig, size: tuple[int, int, int], batch_size: int) -> None:
        self.config = config
        width, height, frames = size
        vae = AutoencoderKLLTX(**config.model)
        if config.gradient_checkpointing:
            vae.enable_gradient_checkpointing()
        self.module = VAETrainingModule(vae, config).train()
        self.number = max([term.start_step for term in self.module.objectives.settings.values()])
        self.optimizers = build_optimizers(self.module, config.optimizer)
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.average = EMAModel(trained, decay=config.ema_decay) if config.ema_decay else None
        self.trained = trained
        self.opponent = Adversaries(self.module.objectives, config.discriminator.start_step).train()
        self.opponent_optimizers: list[torch.optim.Optimizer] = []
        if self.opponent.critics:
            self.module.keeps_pass = True
            self.opponent_optimizers = build_optimizers(self.opponent, config.discriminator.optimizer)
        self.batch = {
            "video": torch.zeros(batch_size, 3, frames, height, width),
            "step": self.number,
            "foreground_weight": 0.0,
            "captions": ("",) * batch_size,
            "numbers": list(range(batch_size)),
        }

    def held(self) -> dict[str, int]:
        """Bytes of what stays from step to step, and of the gradients."""
        sides = [self.module, self.opponent]
        states = [
            value
            for optimizer in (*self.optimizers, *self.opponent_optimizers)
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        ]
        frozen = [
            term._distance[0]
            for term in self.module.objectives.terms.values()
            if isinstance(term, Perceptual)
        ]
        weights = [t for side in (*sides, *frozen) for t in (*side.parameters(), *side.buffers())]
        return {
            "weights": bytes_of(weights),
            "gradients": bytes_of(p for side in sides for p in side.parameters() if p.requires_grad),
            "optimizers": bytes_of(states),
            "average": bytes_of(self.average.shadow_params) if self.average else 0,
        }

    def run(self, phase: Callable[[str], None], saved: Saved | None = None) -> None:
        """One step of both sides."""
        phase("forward")
        with self._autocast(), saved.counted() if saved else nullcontext():
            losses = self.module(self.batch, torch.Generator())
        phase("backward")
        losses["loss"].mean().backward()
        del losses
        phase("optimizer")
        self._update(self.trained, self.optimizers, self.config.optimizer.gradient_clip)
        if self.average:
            self.average.step(self.trained)
        if self.opponent_optimizers:
            phase("discriminators")
            original, reconstruction, draws = self.module.last_pass
            with self._autocast():
                losses = self.opponent(original, reconstruction, self.number, draws)
            losses["loss"].mean().backward()
            del losses
            parameters = list(self.opponent.parameters())
            clip = self.config.discriminator.optimizer.gradient_clip
            self._update(parameters, self.opponent_optimizers, clip)

    @staticmethod
    def _update(parameters: list, optimizers: list[torch.optim.Optimizer], clip: float) -> None:
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def _autocast(self) -> Any:
        if self.config.precision == "bf16":
            return torch.autocast("cpu", torch.bfloat16, cache_enabled=True)
        return nullcontext()


def count(config: VAETrainConfig, size: tuple[int, int, int], batch_size: int) -> dict[str, Any]:
    """Bytes of a step that is only imagined; the second one, which has optimizers with states."""
    with FakeTensorMode(), LiveMemory() as memory:
        step = Step(config, size, batch_size)
        step.run(memory.start)
        saved = Saved(step.module)
        step.run(memory.start, saved)
        found = step.held()
        peaks = {name: peak for name, peak in memory.peaks.items() if name != "setup"}
    return found | {"activations": saved.bytes, "peak": max(peaks.values()), "peaks": peaks}


def measure(config: VAETrainConfig, size: tuple[int, int, int], batch_size: int) -> int:
    """Growth of this process's resident set by two real steps, in bytes."""
    before = resident()
    forget_peak()
    step = Step(config, size, batch_size)
    for _ in range(2):
        step.run(lambda name: None)
    return peak_resident() - before


def check(path: Path) -> list[dict[str, Any]]:
    """Counted beside measured bytes of the narrow model, with and without checkpointing."""
    rows = []
    for checkpointing in (False, True):
        measured = measured_alone(__file__, "--config", str(path), "--measure", str(int(checkpointing)))
        counted = count(narrow(path, checkpointing), numbers(CHECK_SIZE), 1)["peak"]
        rows.append(
            {
                "size": CHECK_SIZE,
                "gradient_checkpointing": checkpointing,
                "counted_gib": round(counted / GIB, 3),
                "measured_gib": round(measured / GIB, 3),
                "measured_by_counted": round(measured / counted, 3),
            }
        )
        print(rows[-1], flush=True)
    return rows


def narrow(path: Path, checkpointing: bool) -> VAETrainConfig:
    """The config with a quarter of the channels, in fp32."""
    config = load_config(VAETrainConfig, path).model_dump(mode="json")
    config["model"] |= NARROW
    return parse_config(
        VAETrainConfig, config | {"gradient_checkpointing": checkpointing, "precision": "fp32"}
    )


def main() -> None:
    """Count, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--batch-size", type=int, default=1, help="clips on one device")
    parser.add_argument("--size", help="only this one: WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--check", action="store_true", help="also measure a narrow model on the CPU (Linux)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    objectives._entries["lpips"] = LPIPSInShape
    if options.measure is not None:
        torch.set_num_threads(1)
        print(measure(narrow(options.config, bool(options.measure)), numbers(CHECK_SIZE), 1))
        return
    base = load_config(VAETrainConfig, options.config)
    rows = []
    for size, precision, checkpointing in CASES:
        if options.size and options.size != size:
            continue
        config = base.model_copy(update={"precision": precision, "gradient_checkpointing": checkpointing})
        found = count(config, numbers(size), options.batch_size)
        row = {
            "size": size,
            "precision": precision,
            "gradient_checkpointing": checkpointing,
            "gib": gib(found),
        }
        rows.append(row)
        print(row, flush=True)
    report = {
        **describe_run("ltx-diffusers", "diffusers", "torch"),
        "config": str(options.config),
        "batch_size": options.batch_size,
        "rows": rows,
        "check": check(options.config) if options.check else [],
    }
    write_report(report, options.output)


if __name__ == "__main__":
    main()
