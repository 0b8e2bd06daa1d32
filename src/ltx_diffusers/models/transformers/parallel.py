"""Running the transformer on many processes: what its class adds to Diffusers' `enable_parallelism`."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ...errors import InputError

CFG = "cfg"
"""Name of the dimension of a device mesh along which the passes of guidance are shared out."""


class RunsOnManyProcesses:
    """Mixin of the transformer: context parallelism, and the passes of guidance on processes of their own."""

    cfg_group: dist.ProcessGroup | None = None
    """The processes that share the passes of guidance, if any; denoising reads it (`denoising.pass_sharing`)."""

    def enable_parallelism(
        self,
        *,
        config: ContextParallelConfig | ParallelConfig | None = None,
        cp_plan: dict[str, Any] | None = None,
        cfg_degree: int = 1,
    ) -> None:
        """Share the work of each step out over the processes that torchrun started.

        Every process then makes the same calls and gets the same results.

        Args:
            config: Context parallelism, as in Diffusers: each process has a share of the tokens. Any number of tokens
                goes; one that divides evenly costs a little less.
            cp_plan: Another plan than the model's own, as in Diffusers.
            cfg_degree: How many groups of processes share the passes of guidance: 2 runs the prompt and the negative
                prompt at the same time. Together with `config`, tokens are shared within each group.

        Raises:
            InputError: If the processes aren't connected, or their number or the heads don't fit the degrees.
        """
        shared = getattr(config, "context_parallel_config", config)
        if config is not None and not isinstance(shared, ContextParallelConfig):
            raise InputError(
                "only context parallelism and cfg_degree share out this model",
                got=type(config).__name__,
                expected="a ContextParallelConfig",
            )
        if config is None and cfg_degree == 1:
            raise InputError(
                "nothing to share out",
                got="no config and cfg_degree=1",
                fix="pass config=ContextParallelConfig(ulysses_degree=2), or cfg_degree=2",
            )
        _check_connected()
        if shared is not None:
            self._check_shares(shared, cfg_degree)
        if cfg_degree > 1:
            mesh = self._cfg_mesh(shared, cfg_degree)
            if config is not None:
                super().enable_parallelism(config=config, cp_plan=cp_plan)
            self.cfg_group = mesh[CFG].get_group()
        else:
            super().enable_parallelism(config=config, cp_plan=cp_plan)

    @property
    def parallel_groups(self) -> list[dist.ProcessGroup]:
        """The groups that this process shares the work of a step with; empty if it is alone."""
        groups = [] if self.cfg_group is None else [self.cfg_group]
        shared = getattr(self._parallel_config, "context_parallel_config", None)
        return groups if shared is None else [*groups, shared._flattened_mesh.get_group()]

    @property
    def token_shares(self) -> int:
        """How many processes share the tokens; 1 without context parallelism."""
        shared = getattr(self._parallel_config, "context_parallel_config", None)
        return 1 if shared is None else shared.ring_degree * shared.ulysses_degree

    def enable_cache(self, config: Any) -> None:
        """As Diffusers' `CacheMixin`.

        Args:
            config: What to keep from step to step.

        Raises:
            InputError: If the cache decides by the tokens and processes share them.
        """
        if self.token_shares > 1:
            _check_cache(config)
        super().enable_cache(config)

    def _check_shares(self, shared: ContextParallelConfig, cfg_degree: int) -> None:
        """Whether context parallelism can do with the heads, the processes and the caches; raises InputError."""
        heads, degree = self.config.num_attention_heads, shared.ulysses_degree
        missing = -heads % degree
        if missing and missing >= (heads + missing) // degree:
            raise InputError(
                "Ulysses shares out the heads, and these don't go over so many processes",
                got=f"{heads} heads, ulysses_degree={degree}",
                fix="use a divisor of the heads, or ring_degree",
            )
        world = dist.get_world_size()
        if shared.mesh is None and cfg_degree * shared.ring_degree * degree != world:
            raise InputError(
                "the degrees must multiply to the number of processes",
                got=f"cfg_degree={cfg_degree}, ring_degree={shared.ring_degree}, ulysses_degree={degree}, "
                f"{world} processes",
                fix="start another number of processes, or give the config a mesh of its own",
            )
        _check_cache(self._cache_config)

    def _cfg_mesh(self, shared: ContextParallelConfig | None, cfg_degree: int) -> DeviceMesh:
        """A mesh with the dimension of the passes; the config takes the same one."""
        if shared is not None and shared.mesh is not None:
            names = shared.mesh.mesh_dim_names or ()
            if CFG not in names or shared.mesh[CFG].size() != cfg_degree:
                raise InputError(
                    "the config's mesh has no dimension for the passes of guidance",
                    got=f"dimensions {names} of sizes {tuple(shared.mesh.shape)}",
                    expected=f"one named {CFG!r} of size {cfg_degree}",
                )
            return shared.mesh
        world = dist.get_world_size()
        if shared is None:
            if world != cfg_degree:
                raise InputError(
                    "cfg_degree must be the number of processes, unless tokens are shared out too",
                    got=f"cfg_degree={cfg_degree}, {world} processes",
                    fix=f"start {cfg_degree} processes, or pass a config for the others",
                )
            return init_device_mesh(self._mesh_device, (cfg_degree,), mesh_dim_names=(CFG,))
        shape = (cfg_degree, *shared.mesh_shape)
        shared.mesh = init_device_mesh(self._mesh_device, shape, mesh_dim_names=(CFG, *shared.mesh_dim_names))
        return shared.mesh

    @property
    def _mesh_device(self) -> str:
        """Type of device of the processes' groups."""
        if torch.accelerator.is_available() and not (
            self.device.type == "cpu" and dist.get_backend() == "gloo"
        ):
            return torch.accelerator.current_accelerator().type
        return "cpu"

    def _resolve_parallel_config(self, config: Any) -> ParallelConfig:
        """As Diffusers', which divides by the number of accelerators and so fails on a machine without any."""
        if self._mesh_device != "cpu" or not isinstance(config, (ContextParallelConfig, ParallelConfig)):
            return super()._resolve_parallel_config(config)
        if isinstance(config, ContextParallelConfig):
            config = ParallelConfig(context_parallel_config=config)
        shared = config.context_parallel_config
        mesh = shared.mesh or init_device_mesh("cpu", shared.mesh_shape, mesh_dim_names=shared.mesh_dim_names)
        config.setup(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), mesh=mesh)
        self._parallel_config = config
        return config


def _check_cache(config: Any) -> None:
    from diffusers import FirstBlockCacheConfig

    if isinstance(config, FirstBlockCacheConfig):
        raise InputError(
            "a FirstBlockCache decides by the tokens that it sees, so that processes with other tokens would wait "
            "for each other",
            fix="use another cache, disable_cache(), or share out the passes only (cfg_degree)",
        )


def _check_connected() -> None:
    if not dist.is_available() or not dist.is_initialized():
        raise InputError(
            "the processes aren't connected",
            fix="start them with torchrun and call torch.distributed.init_process_group() first",
        )
