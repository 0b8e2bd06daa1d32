"""Processes that share the tokens give what one process gives."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, FirstBlockCacheConfig, TensorParallelConfig
from helpers.processes import run_on
from helpers.transformers import MASK, TINY, relative_error

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.errors import InputError
from ltx_diffusers.models.transformers.perturbation import Perturbation
from ltx_diffusers.models.transformers.step_cache import StepCache

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="shares out over CPU processes")

ULYSSES, RING = {"ulysses_degree": 2}, {"ring_degree": 2}
MASKS = {"mask": MASK, "bias": ((1 - MASK.float()) * -10000)[:, None], "none": None}
RUNS = {"over the cut": (5, 9, 10), "one run in a share": (12, 12), "runs": (2, 12, 10)}


def model(heads: int = 4) -> LTXTransformer3DModel:
    torch.manual_seed(0)
    width = {"num_attention_heads": heads, "cross_attention_dim": 16 * heads}
    return LTXTransformer3DModel(**TINY | width, causal_temporal_positioning=True).eval()


def calls(num_tokens: int) -> dict[tuple, dict]:
    """Calls with every kind of timesteps and mask."""
    torch.manual_seed(1)
    same = {
        "hidden_states": torch.randn(2, num_tokens, 8),
        "encoder_hidden_states": torch.randn(2, 6, 32),
        "video_coords": torch.rand(2, 3, num_tokens) * 50,
        "encoder_attention_mask": None,
    }
    timesteps = {
        "per sample": torch.tensor([100.0, 700.0]),
        "column": torch.tensor([[100.0], [700.0]]),
        "per token": torch.linspace(0, 1000, 2 * num_tokens).reshape(2, num_tokens),
    }
    found = {
        (kind, mask): same | {"timestep": timestep, "encoder_attention_mask": MASKS[mask]}
        for kind, timestep in timesteps.items()
        for mask in MASKS
        if kind == "per sample" or mask == "mask"
    }
    if num_tokens == 24:
        for kind, runs in RUNS.items():
            levels = torch.linspace(0, 1000, 2 * len(runs)).reshape(2, len(runs))
            found[(kind,)] = same | {"timestep": levels, "timestep_runs": runs}
    more = torch.randn(4, 6, 32)
    found["copies"] = same | {"timestep": timesteps["per sample"], "encoder_hidden_states": more}
    perturbed = {"perturbation": Perturbation((1,), "attention-values"), "perturbed_rows": 1}
    return found | {"perturbed": same | {"timestep": timesteps["per sample"]} | perturbed}


def results(transformer: LTXTransformer3DModel, num_tokens: int) -> list[torch.Tensor]:
    """Outputs of every call, the second of two with one step cache."""
    found = []
    with torch.no_grad():
        for call in calls(num_tokens).values():
            cache = StepCache()
            first, second = (transformer(**call, step_cache=cache).sample for _ in range(2))
            assert torch.equal(first, second)
            found.append(second)
    return found


CASES = [(24, 4), (23, 3)]
"""Tokens and heads that divide, and that don't."""


def share(rank: int, configs: list[dict], cases: list[tuple[int, int]]) -> dict:
    dist.init_process_group("gloo")
    found = {}
    for config in configs:
        for tokens, heads in cases:
            transformer = model(heads)
            lengths = set()
            transformer.transformer_blocks[0].register_forward_pre_hook(
                lambda block, args, lengths=lengths: lengths.add((args[0].shape[1], args[1].shape[1]))
            )
            transformer.enable_parallelism(config=ContextParallelConfig(**config))
            outputs = [output.tolist() for output in results(transformer, tokens)]
            found[str(config), tokens, heads] = (outputs, sorted(lengths))
    if len(configs) > 1:
        found["errors"] = refused()
        found["gradients"] = gradients(ContextParallelConfig(**RING))
    return found


def gradients(config: ContextParallelConfig | None = None) -> list:
    """The gradient of a loss over this process's share of the keys and queries, summed over the processes."""
    transformer = model()
    if config is not None:
        transformer.enable_parallelism(config=config)
    call = calls(24)["per token", "mask"]
    transformer(**call).sample.square().sum().backward()
    gradient = transformer.transformer_blocks[0].attn1.to_k.weight.grad
    if config is not None:
        dist.all_reduce(gradient)
    return gradient.tolist()


def refused() -> list[str]:
    """What is said of settings that can't be."""
    messages = []
    cached = model()
    cached.enable_cache(FirstBlockCacheConfig())
    trained = model()
    trained.enable_parallelism(config=ContextParallelConfig(**ULYSSES))
    tokens = calls(23)["per sample", "none"]
    few = {name: tensor[:, :1] for name, tensor in tokens.items() if name == "hidden_states"}
    few["video_coords"] = tokens["video_coords"][..., :1]
    for attempt in (
        lambda: model().enable_parallelism(),
        lambda: model().enable_parallelism(config=TensorParallelConfig(tp_degree=2)),
        lambda: model(1).enable_parallelism(config=ContextParallelConfig(**ULYSSES)),
        lambda: model().enable_parallelism(config=ContextParallelConfig(ring_degree=3)),
        lambda: model().enable_parallelism(config=ContextParallelConfig(**RING), cfg_degree=2),
        lambda: model().enable_parallelism(cfg_degree=3),
        lambda: cached.enable_parallelism(config=ContextParallelConfig(**RING)),
        lambda: trained.enable_cache(FirstBlockCacheConfig()),
        lambda: trained(**tokens),
        lambda: trained(**tokens | few),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        messages.append(str(caught.value))
    return messages


def check(found: list[dict], configs: list[dict], cases: list[tuple[int, int]], processes: int) -> None:
    for tokens, heads in cases:
        expected = results(model(heads), tokens)
        for config in configs:
            for rank in range(processes):
                outputs, lengths = found[rank][str(config), tokens, heads]
                for kind, output, alone in zip(calls(tokens), outputs, expected, strict=True):
                    assert relative_error(torch.tensor(output), alone) < 1e-6, (config, rank, kind)
                # Each process has its share of the tokens, and all of the text.
                assert lengths == [((tokens + processes - 1 - rank) // processes, 6)]


def test_two_processes_give_what_one_gives() -> None:
    configs = [ULYSSES, RING]
    found = run_on(2, share, configs, CASES)
    check(found, configs, CASES, 2)
    words = (
        "nothing to share out",
        "only context parallelism",
        "heads",
        "multiply to the number",
        "multiply to the number",
        "cfg_degree must be",
        "FirstBlockCache",
        "FirstBlockCache",
        "with gradients",
        "fewer tokens than processes",
    )
    for word, message in zip(words, found[0]["errors"], strict=True):
        assert word in message
    # Each process's loss is over the whole output, and Diffusers' gathering hands each its own share of the gradient.
    alone = torch.tensor(gradients())
    assert relative_error(torch.tensor(found[0]["gradients"]), alone) < 1e-5


def test_ring_and_ulysses_together_on_four_processes() -> None:
    configs = [ULYSSES | RING]
    check(run_on(4, share, configs, CASES[1:]), configs, CASES[1:], 4)


def test_processes_must_be_connected() -> None:
    with pytest.raises(InputError, match="torchrun"):
        model().enable_parallelism(config=ContextParallelConfig(**RING))
