"""What a checkpoint says about its release, and which releases that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..models.autoencoders.encoder import RESIDUAL_BLOCK
from ..schedulers.flow_match import LTXFlowMatchScheduler
from .official_configs import check_scheduler, scheduler_from_official
from .own_settings import with_settings
from .part_configs import transformer_size
from .releases import RELEASES, Release
from .renames import VaeLayout
from .tensors import TensorSource, read_config


@dataclass(frozen=True)
class ReleaseFacts:
    """What a file says about its release."""

    path: Path
    size: str | None
    vae: str | None
    has_transformer: bool
    has_vae: bool
    upsampler: str | None
    causal: bool | None
    schedule: dict[str, Any] | None

    @classmethod
    def of(
        cls,
        source: TensorSource,
        configs: Mapping[str, dict[str, Any]],
        families: Mapping[str, str | VaeLayout | None],
        official: Mapping[str, Any],
        own_schedule: Mapping[str, Any] | None,
        release: Release | None,
    ) -> ReleaseFacts:
        """What a file says, and, on causal coordinates, what follows from it.

        Args:
            source: The file.
            configs: Configs of its parts, by kind.
            families: Kind of its VAE, under "vae".
            official: The metadata's config; {} if there is none.
            own_schedule: Fields of our scheduler that this library noted in the metadata, if it did.
            release: The release that the caller says it is.

        Raises:
            CheckpointError: If the scheduler's config can't be used.
        """
        size = transformer_size(configs["transformer"]) if "transformer" in configs else None
        family = families.get("vae")
        vae = family if isinstance(family, str) else None
        causal = configs.get("transformer", {}).get("causal_temporal_positioning")
        if causal is None:
            causal = _causal(size, configs.get("vae") or _vae_beside(source), release)
        allowed = official.get("allowed_inference_steps")
        schedule = None
        if official.get("scheduler") is not None:
            schedule = scheduler_from_official(official["scheduler"], allowed)
        if own_schedule is not None:
            schedule = with_settings(schedule or {}, own_schedule, LTXFlowMatchScheduler)
            check_scheduler(schedule)
        return cls(
            path=source.path,
            size=size,
            vae=vae,
            has_transformer="transformer" in configs,
            has_vae="vae" in configs,
            upsampler=next((kind for kind in configs if kind.endswith("upsampler")), None),
            causal=causal,
            schedule=schedule,
        )

    def contradiction(self, release: Release) -> tuple[str, object, object] | None:
        """What of the file contradicts a release: what it is, the file's value, the release's."""
        if self.upsampler or release.upsampler:
            differs = self.upsampler != release.upsampler
            return (
                ("part", self.upsampler or "no upsampler", release.upsampler or "no upsampler")
                if differs
                else None
            )
        if self.size is not None and self.size != release.size:
            return "size of the transformer", self.size, release.size
        if self.has_vae and self.vae != release.vae:
            return "kind of VAE", self.vae or "none of the released", release.vae
        if self.has_transformer and self.causal not in (None, release.causal):
            return "causal_temporal_positioning", self.causal, release.causal
        if self.schedule is not None:
            for name in ("schedule", "shifting"):
                expected = release.schedule.get(name)
                if self.schedule.get(name) != expected:
                    return name, self.schedule.get(name), expected
            stochastic = self.schedule.get("stochastic_sampling")
            if stochastic not in (None, release.stochastic_sampling):  # stated by this library's files only
                return "stochastic_sampling", stochastic, release.stochastic_sampling
            if (self.schedule.get("allowed_inference_steps") is not None) != release.distilled:
                kinds = ("a model for any number of steps", "a distilled model")
                return "kind", kinds[not release.distilled], kinds[release.distilled]
        return None

    def candidates(self) -> tuple[str, ...]:
        """Releases that the file doesn't contradict."""
        return tuple(name for name, release in RELEASES.items() if self.contradiction(release) is None)

    def check(self, release: Release) -> None:
        """Check that the release that was asked for fits the file.

        Raises:
            CheckpointError: If it doesn't; the message says what is another.
        """
        problem = self.contradiction(release)
        if problem is not None:
            what, got, expected = problem
            raise CheckpointError(
                f"{self.path} isn't {release.name}: its {what} is another", got=got, expected=expected
            )

    def scheduler_config(self, release: Release | None, candidates: Sequence[str]) -> dict[str, Any] | None:
        """Arguments of the scheduler, from the metadata and, where that is silent, from what all candidates share."""
        if self.upsampler:
            return None
        options = (
            [release.scheduler_config]
            if release
            else [RELEASES[name].scheduler_config for name in candidates]
        )
        shared = {}
        if options:
            shared = {
                name: value
                for name, value in options[0].items()
                if all(name in option and option[name] == value for option in options)
            }
        if self.schedule is not None:
            return {**shared, **self.schedule}
        return shared if "schedule" in shared and "allowed_inference_steps" in shared else None


def undecided(path: Path, what: str, candidates: Sequence[str]) -> CheckpointError:
    """The error for a file that doesn't tell something which depends on its release."""
    choices = list(candidates) or list(RELEASES)
    named = [name for name in choices if all(word in path.name.lower() for word in name.split("-"))]
    hint = f" (the file's name says {named[-1]})" if named else ""
    return CheckpointError(
        f"neither the metadata nor the tensors of {path} tell {what}",
        expected=f"its release, one of {', '.join(choices)}",
        fix=f"give it as version=, as --version of a command, or as release= of a training{hint}",
    )


def _causal(size: str | None, vae: Mapping[str, Any] | None, release: Release | None) -> bool | None:
    """Whether coordinates are causal, where no config states it: what the release, the kind of VAE or the size tell.

    Causal coordinates and the VAE with residual downsamplers came together, with 0.9.5; every 13B is later.
    """
    if release is not None and release.size is not None:
        return release.causal
    if vae is not None:
        kinds = vae.get("down_block_types")
        return isinstance(kinds, (list, tuple)) and RESIDUAL_BLOCK in kinds
    return True if size == "13b" else None


def _vae_beside(source: TensorSource) -> dict[str, Any] | None:
    """Config of the VAE in the same pipeline folder as a transformer's; None if there is none."""
    folder = source.path if source.path.is_dir() else source.path.parent
    if source.config is None or folder.name != "transformer":
        return None
    return read_config(folder.parent / "vae")
