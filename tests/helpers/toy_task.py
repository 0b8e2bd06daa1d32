"""A task of a few numbers for tests of the training loop: a small network learns to add noise that it is told."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from ltx_diffusers.training.config import RunConfig, parse_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.throughput import Work

BATCH = 4


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + torch.tanh(self.layer(inputs))


class ToyModule(torch.nn.Module):
    """Draws by the sample's number if `tied`, else from the generator of the pass."""

    _no_split_modules = ("Block",)

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.frozen = torch.nn.Linear(4, 4).requires_grad_(False)
        self.tied = tied
        self.drawn: list[torch.Tensor] = []

    def forward(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        inputs = batch["inputs"]
        if self.tied:
            noise = torch.stack(
                [
                    torch.randn(4, generator=torch.Generator().manual_seed(int(number)))
                    for number in batch["numbers"]
                ]
            )
        else:
            noise = torch.randn(inputs.shape, generator=generator)
        self.drawn.append(noise)
        hidden = inputs
        for block in self.blocks:
            hidden = block(hidden)
        error = (self.frozen(hidden) - inputs - noise).square().mean(1)
        return {"loss": error, "bin/parity": batch["numbers"] % 2}


class ToyTask:
    bin_names = {"parity": ("even", "odd")}

    def __init__(self, steps: int = 6, tied: bool = True) -> None:
        torch.manual_seed(0)
        self.module = ToyModule(tied)
        self.total_steps = steps
        self.scores: list[float] = []
        self.validated: list[torch.Tensor] = []

    def batch(self, step: int, rank: int, world_size: int) -> dict[str, torch.Tensor]:
        size = BATCH // world_size
        numbers = torch.arange(step * BATCH, (step + 1) * BATCH)[rank * size : (rank + 1) * size]
        inputs = torch.stack(
            [torch.randn(4, generator=torch.Generator().manual_seed(1000 + int(n))) for n in numbers]
        )
        return {"inputs": inputs, "numbers": numbers}

    def work(self, step: int) -> Work:
        return Work(samples=BATCH, tokens=10 * BATCH, flops=1e3)

    def describe_sample(self, step: int, rank: int, world_size: int, index: int) -> str:
        return f"number {step * BATCH + rank * BATCH // world_size + index}"

    def validate(self, folder: Path) -> dict[str, float]:
        with torch.no_grad():
            loss = self.module(self.batch(0, 0, 1), torch.Generator().manual_seed(0))["loss"].mean()
        self.validated.append(self.module.blocks[0].layer.weight.detach().clone())
        return {"loss": float(loss), "score": self.scores.pop(0) if self.scores else 0.0}

    def finish(self) -> None:
        pass

    def export(self, folder: Path) -> None:
        save_file(dict(self.module.state_dict()), folder / "model.safetensors")


def toy_config(folder: Path, **changes: object) -> RunConfig:
    settings = {
        "output": str(folder),
        "optimizer": {"name": "adamw", "learning_rate": 0.05, "warmup_steps": 0},
        "checkpoint_every": 2,
        "validate_every": 0,
        "log_every": 1,
        "loggers": [],
        "peak_tflops": 1e-6,
    }
    return parse_config(RunConfig, settings | changes)


def toy_run(
    folder: Path, *, resume: bool = False, steps: int = 6, tied: bool = True, **changes: object
) -> Trainer:
    return Trainer(ToyTask(steps, tied), toy_config(folder, **changes), resume=resume)


def take_steps(run: Trainer, count: int) -> list[dict[str, float]]:
    figures = []
    for _ in range(count):
        figures.append(run.train_step())
        run.step += 1
    return figures


def weights_of(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in run.task.module.state_dict().items()}
