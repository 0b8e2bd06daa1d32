"""Tests that need several processes: forked ones, connected by gloo, which find everything imported."""

from __future__ import annotations

import os
import queue
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing


def _on_process(
    rank: int,
    world_size: int,
    port: int,
    environment: dict[str, str],
    function: Callable,
    arguments: tuple,
    results: Any,
) -> None:
    from accelerate.state import AcceleratorState

    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    } | environment
    found = function(rank, *arguments)
    results.put((rank, found))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def run_on(
    world_size: int, function: Callable, *arguments: object, environment: dict[str, str] | None = None
) -> list:
    """What `function(rank, *arguments)` returns on several processes, in the order of their ranks.

    Results go through a pipe: lists and floats rather than tensors.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(
            target=_on_process,
            args=(rank, world_size, port, environment or {}, function, arguments, results),
            daemon=True,
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    while len(found) < world_size:
        try:
            rank, result = results.get(timeout=1)
            found[rank] = result
        except queue.Empty:
            assert not any(process.exitcode for process in processes), "a process failed; see its traceback"
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [found[rank] for rank in range(world_size)]
