"""Memory of a training step of the transformer, counted without a GPU that has it.

The step of a LoRA (the trainer's own module, adapter, switches and optimizer: forward and backward pass, clipping,
update) of a released transformer runs on PyTorch's fake tensors, which have shapes and no data. Counted are all
storages alive at a time, so that the peak includes what kernels return for a moment, but neither the workspaces inside
of kernels, nor what an allocator keeps in reserve, nor the GPU's context (about half a GiB).

Fake tensors are on the CPU. What a GPU does otherwise there is put in its place (`GPU_RULES`): norms of one kernel,
autocast's list of operations in fp32, AdamW's update of all weights at once. Weights in int8 and nf4, and AdamW's
states in 8 bits, are stood in for by tensors of the same bits, which torchao's and bitsandbytes' steps are done with.

On a machine with a GPU the 2B steps are also run for real, each in a process of its own, and what PyTorch allocated at
most stands beside what was counted; but for nf4, which bitsandbytes makes of files only.

`--check` runs a narrow model for real, in processes of its own on the CPU, by the CPU's rules, and puts the counted
beside the measured growth of the resident set; there int8 is torchao's. Run from the repository's root:

    python benchmarks/lora_memory.py --check --output benchmarks/results/lora_memory.json
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

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
    peak_resident,
    resident,
    write_report,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ltx_diffusers.geometry import CompressionRatios, VideoSize, latent_size
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.models.autoencoders.released import RELEASED as VAES
from ltx_diffusers.models.transformers.layers import Linear
from ltx_diffusers.models.transformers.released import RELEASED
from ltx_diffusers.models.transformers.transformer_ltx import LTXTransformer3DModel
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.lora import add_lora
from ltx_diffusers.training.lora_presets import PRESETS, lora_preset
from ltx_diffusers.training.memory import apply_switches
from ltx_diffusers.training.optimizer import build_optimizers
from ltx_diffusers.training.transformer_config import TransformerTrainConfig
from ltx_diffusers.training.transformer_pass import TransformerTrainingModule

RATIOS = CompressionRatios(8, 32, 32)
TEXT_WEIGHTS = 4_762_310_656  # of T5 v1.1 XXL's encoder
PRESET = "2b-24gb"
_FP32 = {"base_dtype": "float32"}
_FULL = {"adapter": None, **_FP32}
_EIGHT_BITS = {"optimizer": {"name": "adamw-8bit"}}
_OFFLOADED = {"optimizer": {"offload": True}}
CASES: list[tuple[str, dict[str, Any]]] = [  # what the preset's settings are changed to
    ("bf16", {}),
    ("bf16", {"gradient_checkpointing": False}),
    ("fp8 (layerwise)", {"base_storage": "fp8"}),
    ("fp8 (layerwise)", {"base_storage": "fp8", "gradient_checkpointing": False}),
    ("int8 (torchao)", {"base_storage": "int8"}),
    ("int8 (torchao)", {"base_storage": "int8", "gradient_checkpointing": False}),
    ("nf4 (bitsandbytes)", {"base_storage": "nf4"}),
    ("nf4 (bitsandbytes)", {"base_storage": "nf4", "gradient_checkpointing": False}),
    ("fp32", _FP32),
    ("fp32", {**_FP32, "gradient_checkpointing": False}),
    ("bf16, AdamW in 8 bits", _EIGHT_BITS),
    ("bf16, AdamW offloaded", _OFFLOADED),
    ("all weights, fp32", _FULL),
    ("all weights, fp32, AdamW in 8 bits", {**_FULL, **_EIGHT_BITS}),
    ("all weights, fp32, AdamW offloaded", {**_FULL, **_OFFLOADED}),
]
NARROW = {
    "num_attention_heads": 8,
    "attention_head_dim": 64,
    "cross_attention_dim": 512,
    "num_layers": 6,
    "caption_channels": 512,
}
CHECK_SIZE = {"num_frames": 25, "height": 352, "width": 512}
_PLAIN = {"gradient_checkpointing": False}
CHECK_CASES: list[dict[str, Any]] = [
    {**_FP32, **_PLAIN, "precision": "fp32"},
    {**_FP32, "precision": "fp32"},
    _PLAIN,
    {**_PLAIN, "base_storage": "fp8"},
    {**_PLAIN, "base_storage": "int8"},
    {**_FULL, **_PLAIN, "precision": "fp32"},
]


class OneKernelNorm(torch.autograd.Function):
    """Shapes and saved tensors of a GPU's RMSNorm."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """Keeps input and weight, and a number for each token."""
        ctx.save_for_backward(x, weight, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Gradients of input and weight."""
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight) if ctx.needs_input_grad[1] else None


def _gpu_rms_norm(x: torch.Tensor, shape: Any, weight: Any = None, eps: Any = None) -> torch.Tensor:
    if torch.is_autocast_enabled("cpu"):
        x, weight = x.float(), None if weight is None else weight.float()
    return OneKernelNorm.apply(x, weight)


def _gpu_layer_norm(x: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
    return torch.layer_norm(x.float() if torch.is_autocast_enabled("cpu") else x, *others, **options)


def _gpu_addcmul(*tensors: torch.Tensor) -> torch.Tensor:
    if torch.is_autocast_enabled("cpu"):
        widest = functools.reduce(torch.promote_types, (each.dtype for each in tensors))
        tensors = tuple(each.to(widest) for each in tensors)
    return torch.ops.aten.addcmul(*tensors)


GPU_RULES = {
    "torch.nn.functional.rms_norm": _gpu_rms_norm,
    "torch.nn.functional.layer_norm": _gpu_layer_norm,
    "torch.addcmul": _gpu_addcmul,
}
"""On the CPU's fake tensors, what a GPU does otherwise in the transformer."""


class Int8Linear(Linear):
    """A layer with weights of 8 bits, and the steps of torchao's `Int8WeightOnlyConfig`."""

    def pack(self, dtype: torch.dtype) -> None:
        """Let go of the wider weights."""
        scale = self.weight.new_ones(self.out_features, dtype=dtype)
        weight = torch.zeros_like(self.weight, dtype=torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        """(..., C) to (..., C')."""
        product = torch.mm(x.reshape(-1, x.shape[-1]), self.weight.t().to(x.dtype))
        result = (product * self.scale.to(product.dtype)).reshape(*x.shape[:-1], self.out_features)
        result += self.bias
        result = result.to(x.dtype)
        return F.gelu(result, approximate="tanh") if gelu else result


class UnpackedProduct(torch.autograd.Function):
    """A product with weights that are unpacked for it, and again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor, shape: tuple[int, int]
    ) -> torch.Tensor:
        """Keeps nothing but the packed weights, which are there anyway."""
        ctx.shape = shape
        return F.linear(x, x.new_zeros(shape), bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of the input."""
        return gradient @ gradient.new_zeros(ctx.shape), None, None, None


class NF4Linear(Linear):
    """A layer with weights of 4 bits and an fp32 scale for each 64 of them, and the steps of bitsandbytes."""

    def pack(self, dtype: torch.dtype) -> None:
        """Let go of the wider weights."""
        count, self.dtype = self.weight.numel(), dtype
        packed = self.weight.new_zeros(count // 2, 1, dtype=torch.uint8)
        scale = self.weight.new_zeros(count // 64, dtype=torch.float32)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, x: torch.Tensor, gelu: bool = False) -> torch.Tensor:
        """(..., C) to (..., C')."""
        shape = (self.out_features, self.in_features)
        result = UnpackedProduct.apply(x.to(self.dtype), self.weight, self.bias, shape).to(x.dtype)
        return F.gelu(result, approximate="tanh") if gelu else result


class AdamWInShape(torch.optim.Optimizer):
    """AdamW with averages of 8 bits, and an fp32 scale for each 256 of them, or none on the GPU.

    Torchao's and bitsandbytes' updates are kernels of one weight at a time.
    """

    def __init__(self, parameters: list[nn.Parameter], offloaded: bool) -> None:
        super().__init__(parameters, {})
        self.offloaded = offloaded

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> None:
        """Have the states of the first step."""
        for weight in () if self.offloaded or self.state else self.param_groups[0]["params"]:
            packs = weight.numel() >= 4096 and weight.numel() % 256 == 0
            for name in ("exp_avg", "exp_avg_sq"):
                dtype = torch.uint8 if packs else torch.float32
                self.state[weight][name] = torch.zeros_like(weight, dtype=dtype)
                if packs:
                    self.state[weight][f"{name}_scale"] = weight.new_zeros(weight.numel() // 256)


class Step:
    """What a process holds while it trains, and its steps.

    Args:
        config: The run's; of its data the first size counts.
        model: Settings of the transformer.
        real: Whether tensors have data; int8 is then torchao's, and the optimizer the trainer's.
        device: Where.
    """

    def __init__(
        self, config: TransformerTrainConfig, model: dict[str, Any], *, real: bool, device: str = "cpu"
    ) -> None:
        self.config, self.device = config, device
        dtype = getattr(torch, config.base_dtype)
        with torch.device(device):
            transformer = LTXTransformer3DModel(**model, causal_temporal_positioning=True).to(dtype)
            self.batch = batch_of(config, model["caption_channels"])
        if config.base_storage == "fp8":
            transformer.enable_layerwise_casting(torch.float8_e4m3fn, dtype)
        if config.base_storage == "int8" and real:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            quantize_(transformer.requires_grad_(False), Int8WeightOnlyConfig())
        if config.adapter is not None:
            add_lora(transformer, config.adapter)
        if not real and config.base_storage in ("int8", "nf4"):
            pack_linears(transformer, Int8Linear if config.base_storage == "int8" else NF4Linear, dtype)
        self.trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        trained = {id(parameter) for parameter in self.trained}
        self.base = [p for p in transformer.parameters() if id(p) not in trained]
        self.module = TransformerTrainingModule(transformer, None, config, RATIOS).train()
        apply_switches(
            self.module, gradient_checkpointing=config.gradient_checkpointing, backend=config.compile
        )
        self.optimizers = self._build_optimizers(real)

    def _build_optimizers(self, real: bool) -> list[torch.optim.Optimizer]:
        settings = self.config.optimizer
        if not real and (settings.offload or settings.name == "adamw-8bit"):
            return [AdamWInShape(self.trained, settings.offload)]
        optimizers = build_optimizers(self.module, settings)
        for group in () if real else (group for each in optimizers for group in each.param_groups):
            group["foreach"] = True  # as on a GPU
        return optimizers

    def warm_up(self) -> None:
        """Have the optimizers' states, as from the second step on."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        self._update()

    def run(self, phase: Callable[[str], None]) -> None:
        """One step."""
        phase("forward")
        with self._autocast():
            loss = self.module(self.batch)["loss"].mean()
        phase("backward")
        loss.backward()
        phase("optimizer")
        del loss
        torch.nn.utils.clip_grad_norm_(self.trained, self.config.optimizer.gradient_clip)
        self._update()

    def held(self) -> dict[str, int]:
        """Bytes of what stays from step to step, and of the gradients."""
        states = [
            value
            for optimizer in self.optimizers
            for state in optimizer.state.values()
            for value in state.values()
        ]
        return {
            "base": bytes_of(self.base),
            "trained": bytes_of(self.trained),
            "gradients": bytes_of(self.trained),
            "optimizer": bytes_of(states),
        }

    def _update(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def _autocast(self) -> Any:
        if self.config.precision == "bf16":
            return torch.autocast(self.device, torch.bfloat16, cache_enabled=True)
        return nullcontext()


def pack_linears(transformer: nn.Module, kind: type[Int8Linear | NF4Linear], dtype: torch.dtype) -> None:
    """Give all linear layers beside an adapter's packed weights."""
    for name, layer in list(transformer.named_modules()):
        if isinstance(layer, nn.Linear) and "lora_" not in name:
            layer.__class__ = kind
            layer.pack(dtype)


def batch_of(config: TransformerTrainConfig, caption_channels: int) -> dict[str, Any]:
    """A batch of clips, each with the longest text."""
    count = config.batch_size
    size = latent_size(VideoSize(config.data.num_frames, config.data.height, config.data.width), RATIOS)
    latents = torch.zeros(count, 128, *size)
    group = {
        "mean": latents,
        "deviation": torch.zeros_like(latents),
        "frame_rate": torch.full((count,), config.data.frame_rate),
        "numbers": range(count),
        "rows": range(count),
    }
    return {
        "groups": (group,),
        "sigma": torch.full((count,), 0.5),
        "weight": torch.ones(count),
        "bucket": torch.zeros(count),
        "keep": None,
        "step": 0,
        "text_embeds": torch.zeros(count, config.text_length, caption_channels),
        "text_mask": torch.ones(count, config.text_length, dtype=torch.bool),
    }


def settings_of(preset: str, changes: dict[str, Any]) -> TransformerTrainConfig:
    """A preset as a config, with changes."""
    values = lora_preset(preset) | {"output": "none", "initial_weights": "embedded"}
    for key, value in changes.items():
        merges = isinstance(value, dict) and isinstance(values.get(key), dict)
        values[key] = {**values[key], **value} if merges else value
    return parse_config(TransformerTrainConfig, values)


def count(config: TransformerTrainConfig, model: dict[str, Any], *, gpu: bool = True) -> dict[str, Any]:
    """Bytes of a step that is only imagined, when the optimizer has its states."""
    with ExitStack() as modes:
        memory = modes.enter_context(_fakes())
        for name, rule in GPU_RULES.items() if gpu else ():
            modes.enter_context(patch(name, new=rule))
        step = Step(config, model, real=False)
        step.warm_up()
        before, kept = memory.now, {}

        def phase(name: str) -> None:
            memory.start(name)
            kept[name] = memory.now - before

        step.run(phase)
        found = step.held()
        peaks = {name: memory.peaks[name] for name in ("forward", "backward", "optimizer")}
    if config.optimizer.offload:  # averages, and copies of weights and gradients
        found["main_memory"] = 4 * found["trained"]
    return found | {"kept_for_backward": kept["backward"], "peak": max(peaks.values()), "peaks": peaks}


@contextmanager
def _fakes() -> Iterator[LiveMemory]:
    """Tensors without data, counted. They can't be swapped, and have no values to check."""
    with (
        FakeTensorMode(),
        patch("torch.utils.swap_tensors", new=_take_data),
        patch("torch.Tensor.__bool__", new=lambda _: True),
        LiveMemory() as memory,
    ):
        yield memory


def _take_data(weight: torch.Tensor, converted: torch.Tensor) -> None:
    weight.data = converted.data


def count_parts(size: VideoSize) -> dict[str, int]:
    """Bytes in bf16 of what may be on the GPU beside the transformer: weights, and a video of a size in the VAE."""
    with _fakes() as memory, torch.no_grad():
        vae = AutoencoderKLLTX(**VAES["0.9.5"]).to(torch.bfloat16)
        vae.use_pieces = False  # as on a GPU
        latents = torch.zeros(1, 128, *latent_size(size, RATIOS), dtype=torch.bfloat16)
        memory.start("decode")
        vae.decode(latents, torch.zeros(1))
        decoded = memory.peaks["decode"] - memory.now
    return {
        "text_encoder": 2 * TEXT_WEIGHTS,
        "vae": 2 * sum(parameter.numel() for parameter in vae.parameters()),
        "decode": decoded,
    }


def measure(config: TransformerTrainConfig) -> int:
    """Growth of this process's resident set by two real steps of the narrow model, in bytes."""
    before = resident()
    forget_peak()
    step = Step(config, NARROW, real=True)
    step.warm_up()
    for _ in range(2):
        step.run(lambda name: None)
    return peak_resident() - before


def measure_on_gpu(config: TransformerTrainConfig) -> int:
    """Most bytes that PyTorch allocates in two steps of the 2B model."""
    step = Step(config, RELEASED["2b"], real=True, device="cuda")
    step.warm_up()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step.run(lambda name: None)
    return torch.cuda.max_memory_allocated()


def check() -> Iterator[dict[str, Any]]:
    """Counted beside measured bytes of the narrow model."""
    for number, changes in enumerate(CHECK_CASES):
        measured = measured_alone(__file__, "--measure", str(number))
        counted = count(check_config(number), NARROW, gpu=False)["peak"]
        yield {
            **changes,
            "counted_gib": round(counted / GIB, 3),
            "measured_gib": round(measured / GIB, 3),
            "measured_by_counted": round(measured / counted, 3),
        }


def check_config(number: int) -> TransformerTrainConfig:
    """The config of a check."""
    return settings_of(PRESET, CHECK_CASES[number] | {"data": CHECK_SIZE})


def main() -> None:
    """Count, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="also measure a narrow model on the CPU (Linux)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--measure-on-gpu", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.measure is not None:
        torch.set_num_threads(1)
        print(measure(check_config(options.measure)))
        return
    if options.measure_on_gpu is not None:
        print(measure_on_gpu(settings_of(PRESET, CASES[options.measure_on_gpu][1])))
        return
    report = describe_run("ltx-diffusers", "diffusers", "torch", "peft", "torchao") | {
        "preset": PRESET,
        "parts_in_bf16": gib(count_parts(VideoSize(49, 512, 768))),
        "rows": [],
        "presets": [],
        "check": [],
    }

    def add(section: str, row: dict[str, Any]) -> None:
        report[section].append(row)
        print(json.dumps(row), flush=True)
        write_report(report, options.output)

    for row in check() if options.check else ():
        add("check", row)
    for number, (name, changes) in enumerate(CASES):
        config = settings_of(PRESET, changes)
        found = gib(count(config, RELEASED["2b"]))
        if torch.cuda.is_available() and config.base_storage != "nf4":
            found["measured_peak"] = round(measured_alone(__file__, "--measure-on-gpu", str(number)) / GIB, 2)
        row = {"case": name, "gradient_checkpointing": config.gradient_checkpointing, "gib": found}
        add("rows", row)
    for preset in PRESETS:
        if preset != "embedded":
            size = preset.partition("-")[0]
            add("presets", {"preset": preset, "gib": gib(count(settings_of(preset, {}), RELEASED[size]))})


if __name__ == "__main__":
    main()
