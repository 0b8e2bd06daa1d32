"""Two processes that share the tokens give what one process gives."""

from __future__ import annotations

import socket
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from helpers.transformers import MASK, TIMESTEPS, TINY, on_grid, relative_error, tiny_inputs

from ltx_diffusers import LTXTransformer3DModel

MASKS = {"mask": MASK, "bias": ((1 - MASK.float()) * -10000)[:, None], "none": None}


def results(model: LTXTransformer3DModel) -> dict[tuple[str, str], torch.Tensor]:
    """Outputs for every kind of timestep and mask, as tensor and as output object."""
    torch.manual_seed(0)
    inputs = {**tiny_inputs(), **on_grid(), "return_dict": True}
    with torch.no_grad():
        return {
            (timesteps, mask): model(
                **{**inputs, "timestep": TIMESTEPS[timesteps], "encoder_attention_mask": MASKS[mask]}
            ).sample
            for timesteps in TIMESTEPS
            for mask in MASKS
        }


def share(rank: int, port: int, folder: str) -> None:
    """One of two processes."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    # Diffusers takes the rank modulo the number of accelerators, which is 0 on a machine that has none.
    torch.accelerator.device_count = lambda: 1
    model = LTXTransformer3DModel.from_pretrained(folder)
    lengths = []
    model.transformer_blocks[0].register_forward_pre_hook(
        lambda block, args: lengths.append(
            [None if x is None else x.shape[1] for x in (args[0], args[1], args[2])]
        )
    )
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    torch.save((results(model), lengths), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="shares out over CPU processes")
def test_two_processes_give_what_one_gives(tmp_path) -> None:
    model = LTXTransformer3DModel(**TINY, causal_temporal_positioning=True).eval()
    model.save_pretrained(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked, because importing torch and Diffusers anew would take far longer than the test.
    processes = torch.multiprocessing.start_processes(
        share, args=(port, str(tmp_path)), nprocs=2, join=False, start_method="fork"
    )
    deadline = time.monotonic() + 60
    while not processes.join(timeout=1):
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail("the processes wait for each other")
    expected = results(model)
    for rank in range(2):
        shared, lengths = torch.load(tmp_path / f"{rank}.pt")
        for kind, output in expected.items():
            assert relative_error(shared[kind], output) < 1e-6, (rank, kind)
        # Tokens and text are halved always, timesteps where there is one per token.
        per_kind = [[12, 3, 12 if timesteps == "per token" else 1] for timesteps, _ in expected]
        assert lengths == per_kind
