"""Which samples a step of the transformer's training takes, and how they become a batch.

Everything follows from the step's number. Sizes whose token counts differ by no more than may be left out share a
batch, sample by sample; the others have steps of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..functional.draws import Draws
from ..geometry import CompressionRatios, VideoSize, latent_size
from ..schedulers.densities import build_timestep_density
from .conditioning import GrayBox, Piece, random_box
from .config import share_of_batch
from .latent_cache import View
from .samples import LatentSample
from .sources import SampleSource, SeesPixels, check_sizes
from .token_dropping import group_by_length, tokens_kept
from .transformer_config import TransformerTrainConfig

_MOST_SAMPLES = 2**31
"""Sources with more than this are endless: their samples are taken in order, not at random."""

# Last words of the seeds of what is drawn for a step.
_CLIP, _REFERENCES, _KEEP, _OWN = 1, 2, 3, 4


@dataclass(frozen=True)
class Pick:
    """A sample of a step.

    Attributes:
        number: In its source.
        bucket: Number of its size.
        index: Its place in the batch of all processes.
        draws: The number that its random draws follow from; no other sample of the run has it.
    """

    number: int
    bucket: int
    index: int
    draws: int


class TransformerPlan:
    """The samples of each step.

    Args:
        source: Where they come from.
        config: Settings of the run.
        ratios: Compression of the VAE.

    Attributes:
        sizes: The sizes, in frames and pixels; buckets are numbered in this order.
        tokens: Tokens of a video of each size.

    Raises:
        InputError: If the source has no sample of a size that the config asks for.
    """

    def __init__(
        self, source: SampleSource, config: TransformerTrainConfig, ratios: CompressionRatios
    ) -> None:
        self.config = config
        check_sizes(source, [bucket.size for bucket in config.buckets])
        self.sizes = [bucket.size for bucket in config.buckets] or list(source.buckets)
        self._numbers = [source.buckets[size] for size in self.sizes]
        # Without stated shares every sample comes up as often as any other.
        shares = [bucket.share for bucket in config.buckets] or [len(numbers) for numbers in self._numbers]
        batch_sizes = [bucket.batch_size or config.batch_size for bucket in config.buckets]
        batch_sizes = batch_sizes or [config.batch_size] * len(self.sizes)
        self.tokens = [int(np.prod(latent_size(size, ratios))) for size in self.sizes]
        self._largest = max(batch_sizes)
        self._families: list[list[int]] = []
        for batch_size in sorted(set(batch_sizes)):
            alike = [index for index, value in enumerate(batch_sizes) if value == batch_size]
            groups = group_by_length([self.tokens[index] for index in alike], config.token_dropping)
            self._families += [[alike[place] for place in group] for group in groups]
        self._shares = np.array(shares, dtype=float)
        self._batch_sizes = batch_sizes

    def picks(self, step: int) -> list[Pick]:
        """The samples of a step, for all processes together."""
        rng = np.random.default_rng([self.config.seed, step])
        family = self._families[0]
        if len(self._families) > 1:
            weights = np.array([self._shares[members].sum() for members in self._families])
            family = self._families[rng.choice(len(weights), p=weights / weights.sum())]
        count = self._batch_sizes[family[0]]
        if len(family) == 1:
            buckets = np.full(count, family[0])
        else:
            weights = self._shares[family]
            buckets = rng.choice(family, size=count, p=weights / weights.sum())
        first = step * self._largest
        numbers = self._chosen(buckets, first, rng)
        return [
            Pick(number, int(bucket), index, first + index)
            for index, (number, bucket) in enumerate(zip(numbers, buckets, strict=True))
        ]

    def _chosen(self, buckets: np.ndarray, first: int, rng: np.random.Generator) -> list[int]:
        """Numbers of samples: at random, but of endless sources one after the other."""
        lengths = np.array([len(self._numbers[bucket]) for bucket in buckets])
        places = rng.integers(lengths[0] if (lengths == lengths[0]).all() else lengths, size=len(buckets))
        return [
            int(self._numbers[bucket][first + index if self._is_endless(bucket) else place])
            for index, (bucket, place) in enumerate(zip(buckets.tolist(), places.tolist(), strict=True))
        ]

    def _is_endless(self, bucket: int) -> bool:
        return len(self._numbers[bucket]) > _MOST_SAMPLES

    def share(self, step: int, rank: int, world_size: int) -> list[Pick]:
        """A rank's samples of a step.

        Raises:
            InputError: If the ranks can't share the batch evenly.
        """
        picks = self.picks(step)
        size = share_of_batch(len(picks), world_size)
        return picks[rank * size : (rank + 1) * size]

    def keep(self, step: int) -> int | None:
        """How many tokens of its video each sample of a step keeps; None for all."""
        counts = [self.tokens[pick.bucket] for pick in self.picks(step)]
        if not self.config.token_dropping:
            return None
        return tokens_kept(counts, self.config.token_dropping, self.draw(step, _KEEP))

    def clip(self, step: int) -> int | None:
        """Which of the config's clips a step is given. The same for all ranks, whose sequences have one length then."""
        return self.config.conditions.clip_of_step(self.draw(step, _CLIP))

    def gives_references(self, step: int) -> bool:
        """Whether samples are given their references at a step."""
        return self.draw(step, _REFERENCES) < self.config.conditions.references

    def gives_own(self, step: int) -> bool:
        """Whether samples are given the conditions of their own at a step."""
        return self.draw(step, _OWN) < self.config.conditions.own

    def draw(self, step: int, what: int) -> float:
        """A number from [0, 1) that a step has for one of its choices."""
        return float(np.random.default_rng([self.config.seed, step, 0, what]).random())

    def wording(self, step: int, pick: Pick) -> np.random.Generator:
        """Source of what is drawn of a sample's caption."""
        # From 1 on: numpy ignores zeros at the end of a seed, and the first would draw the clips' numbers again.
        return np.random.default_rng([self.config.seed, step, 1 + pick.index])


class NoiseLevels:
    """Noise levels of the samples of a step, drawn for all processes together so that they can be stratified.

    Args:
        config: Settings of the run.

    Raises:
        UnknownNameError: If there is no such density.
        InputError: If it can't take its options.
    """

    def __init__(self, config: TransformerTrainConfig) -> None:
        self.config = config
        self.density = build_timestep_density(config.density.name, **config.density.options)

    def __call__(self, step: int, tokens: Sequence[int]) -> torch.Tensor:
        """Sigmas (B,) of samples with these numbers of tokens."""
        return self.density.sample(
            len(tokens),
            num_tokens=torch.tensor(tokens),
            generator=Draws.of_samples(self.config.seed, step, ()).shared,
            stratified=self.config.density.stratified,
        )


def views_of(config: TransformerTrainConfig, size: VideoSize, ratios: CompressionRatios) -> list[View]:
    """What is encoded by itself of clips of a size, for the conditions of a run."""
    begins = [(clip.begin(size.frames, ratios.time), clip.frames) for clip in config.conditions.clips]
    views: list[View] = [Piece(begin, frames) for begin, frames in begins if begin is not None]
    return list(dict.fromkeys(views)) + ([GrayBox(ratios)] if config.conditions.region else [])


class Collator:
    """Makes the groups of a batch: samples of one size each, with what they are given.

    Args:
        source: The samples; one that sees pixels (`SeesPixels`) if the conditions need them.
        plan: Its plan.
        config: Settings of the run.
        ratios: Compression of the VAE.
    """

    def __init__(
        self,
        source: SampleSource | SeesPixels,
        plan: TransformerPlan,
        config: TransformerTrainConfig,
        ratios: CompressionRatios,
    ) -> None:
        self.source = source
        self.plan = plan
        self.config = config
        self.ratios = ratios

    def groups(
        self,
        picks: Sequence[Pick],
        samples: Sequence[LatentSample],
        clip: int | None,
        references: bool,
        *,
        own: bool = True,
        drawn_regions: bool = True,
    ) -> tuple[dict[str, Any], ...]:
        """Groups of a batch; see `TransformerTrainingModule.noised_tokens`.

        Args:
            picks: The samples' picks.
            samples: The samples.
            clip: Number of the config's clip that is given.
            references: Whether the samples are given their references.
            own: Whether the samples are given the conditions of their own, in place of what is drawn.
            drawn_regions: Whether regions come along, for the share of samples that they fall on.
        """
        by_kind: dict[Any, list[int]] = {}
        for row, (pick, sample) in enumerate(zip(picks, samples, strict=True)):
            shapes = tuple(tuple(reference.shape) for reference in sample.references) if references else ()
            given = None
            if own and sample.conditions is not None:
                given = tuple((each.frame, tuple(each.mean.shape)) for each in sample.conditions)
            kind = (
                (pick.bucket, sample.latent_size),
                (shapes, sample.reference_scale),
                sample.mask is None,
                given,
            )
            by_kind.setdefault(kind, []).append(row)
        groups = []
        for (*_, given), rows in by_kind.items():
            some, theirs = [picks[row] for row in rows], [samples[row] for row in rows]
            group = self._group(some, theirs, references)
            if given is not None:
                group["own"] = _own(theirs)
            else:
                group |= self._clip(some, clip)
                if drawn_regions and self.config.conditions.region:
                    group |= self._region(some, theirs[0].latent_size)
            groups.append(group | {"rows": tuple(rows)})
        return tuple(groups)

    def _group(
        self, picks: Sequence[Pick], samples: Sequence[LatentSample], references: bool
    ) -> dict[str, Any]:
        first = samples[0]
        group: dict[str, Any] = {
            "mean": torch.stack([sample.mean for sample in samples]),
            "deviation": torch.stack([sample.deviation for sample in samples]),
            "frame_rate": torch.tensor([sample.frame_rate for sample in samples], dtype=torch.float32),
            "numbers": tuple(pick.draws for pick in picks),
        }
        if references and first.references:
            group["references"] = tuple(
                torch.stack(each) for each in zip(*(sample.references for sample in samples), strict=True)
            )
            group["reference_scale"] = first.reference_scale
        if first.mask is not None:
            group["made_anew"] = torch.stack([sample.mask for sample in samples])
        return group

    def _clip(self, picks: Sequence[Pick], clip: int | None) -> dict[str, Any]:
        """The clip of a step, where it fits into videos of this size."""
        if clip is None:
            return {}
        piece = self.config.conditions.clips[clip]
        begin = piece.begin(self.plan.sizes[picks[0].bucket].frames, self.ratios.time)
        if begin is None:
            return {}
        return self._viewed("clip", picks, Piece(begin, piece.frames)) | {"clip_frame": begin}

    def _region(self, picks: Sequence[Pick], size: VideoSize) -> dict[str, Any]:
        numbers = [self.source.clip_number(pick.number) for pick in picks]
        boxes = np.stack([random_box(number, size) for number in numbers])
        keep = {"region_keep": torch.from_numpy(boxes).float()}
        return self._viewed("region", picks, GrayBox(self.ratios)) | keep

    def _viewed(self, name: str, picks: Sequence[Pick], view: View) -> dict[str, torch.Tensor]:
        posteriors = [self.source.view(pick.number, view) for pick in picks]
        return {
            f"{name}_mean": torch.stack([posterior.mean for posterior in posteriors]),
            f"{name}_deviation": torch.stack([posterior.deviation for posterior in posteriors]),
        }


def _own(samples: Sequence[LatentSample]) -> tuple[dict[str, Any], ...]:
    """What samples with conditions of one kind are given of their own, one condition after the other."""
    return tuple(
        {
            "frame": each[0].frame,
            "mean": torch.stack([one.mean for one in each]),
            "deviation": torch.stack([one.deviation for one in each]),
        }
        for each in zip(*(sample.conditions for sample in samples), strict=True)
    )
