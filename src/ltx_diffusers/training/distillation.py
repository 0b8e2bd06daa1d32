"""Teacher and student of a distillation: their levels, where training starts from, whose velocity is whose."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..denoising.guidance import ClassifierFreeGuidance
from ..denoising.velocity import TextFeatures
from ..embedded import embedded_model_path
from ..errors import InputError
from ..functional.draws import Draws
from ..models.transformers.transformer_ltx import LTXTransformer3DModel
from ..objectives.distillation import TrajectoryPass, Velocity, follow
from ..pipelines.pipeline_ltx import LTXPipeline
from ..schedulers.densities import draw_uniform
from ..schedulers.flow_match import LTXFlowMatchScheduler
from .base_model import BaseModel
from .config import load_part
from .training_tokens import TrainingTokens
from .transformer_config import DistillationConfig, TransformerTrainConfig

Predict = Callable[[LTXTransformer3DModel, TrainingTokens, TextFeatures], Tensor]
"""One call of a transformer in training: the transformer, samples of a batch, the texts of the whole batch."""

_ALIKE = ("in_channels", "out_channels", "caption_channels", "causal_temporal_positioning")
_ALLOWED_DIGITS = 4
_SAME_LEVEL = 1e-4


class Distillation:
    """What a run with a teacher has besides its student.

    Args:
        config: The run's `distillation`.
        teacher: The frozen model; None for the student itself without its adapter.
        teacher_scheduler: Gives the levels that the teacher visits, and the default of its guidance.
        scheduler: Gives the student's levels.

    Attributes:
        levels: The student's inference levels (N + 1,) float32, from 1 to the closing 0.
        student_scheduler: What the finished student samples with: these levels only, these as the default, no guidance.

    Raises:
        InputError: If there are no such levels, they depend on the resolution, the teacher wasn't made for them, or
            nothing says how strongly the teacher is guided.
    """

    def __init__(
        self,
        config: DistillationConfig,
        teacher: LTXTransformer3DModel | None,
        teacher_scheduler: LTXFlowMatchScheduler,
        scheduler: LTXFlowMatchScheduler,
    ) -> None:
        self.config = config
        self.teacher = teacher
        scale = config.guidance_scale
        if scale is None:
            scale = teacher_scheduler.config.default_guidance_scale
        if scale is None:
            raise InputError(
                "config key 'distillation.guidance_scale' is needed: the teacher's scheduler has no default",
                fix="give it, or scheduler.default_guidance_scale if the teacher is the run's initial weights",
            )
        self.guidance = ClassifierFreeGuidance(scale)
        self.student_scheduler = few_step_scheduler(scheduler, config.steps)
        self.levels = _levels(self.student_scheduler, config.steps)
        self._teacher_scheduler = copy.deepcopy(teacher_scheduler)
        self._paths: dict[int, Tensor] = {}
        steps = self.levels[:-1] - self.levels[1:]
        self._shares = (steps**config.step_power / (steps**config.step_power).sum()).double()

    @property
    def calls_vary(self) -> bool:
        """Whether it follows from the samples how often the student is called: by itself, or as its own teacher."""
        return self.config.own_inputs > 0 or self.teacher is None

    def draw(self, seed: int, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Levels of all samples of a step, and where each starts.

        A level comes up as often as the step from it is long, to the power `step_power`; the draws of a step are
        spread evenly over that.

        Args:
            seed: Of the run.
            step: Step of the run.
            count: Samples, over all processes.

        Returns:
            Levels (count,), and the levels (count,) from which the student comes down to them by itself: 1 or, where
            noised data is what the sample starts from, the level itself.
        """
        generator = Draws.of_samples(seed, step, ()).shared
        edges = self._shares.cumsum(0)[:-1]
        sigma = self.levels[torch.searchsorted(edges, draw_uniform(count, generator, True), right=True)]
        own = torch.rand(count, generator=generator) < self.config.own_inputs
        return sigma, torch.where(own, torch.ones_like(sigma), sigma)

    def record(
        self,
        student: LTXTransformer3DModel,
        predict: Predict,
        tokens: TrainingTokens,
        text: TextFeatures,
        negative: TextFeatures,
        sigma: Tensor,
        start: Tensor,
    ) -> TrajectoryPass:
        """A pass for samples of one length.

        Args:
            student: The model under training.
            predict: Calls a model.
            tokens: The samples, noised to `start`.
            text: Texts of the batch.
            negative: What the teacher's guidance leads away from, one text.
            sigma: Student's levels of the whole batch (B,).
            start: Levels of the whole batch (B,) that its tokens are at; see `draw`.
        """
        device = tokens.tokens.device
        sigma, start = (values[list(tokens.rows)].to(device) for values in (sigma, start))
        learner = _velocity(student, predict, tokens, text)
        levels, noisy = tokens.levels, tokens.tokens
        if bool((start > sigma).any()):
            with torch.no_grad():
                noisy = follow(learner, noisy, levels, self._own_path(start, sigma))
            levels = torch.minimum(levels, sigma[:, None])
        return TrajectoryPass(
            tokens=noisy,
            levels=levels,
            mask=tokens.counts,
            path=self._teacher_path(sigma, noisy.shape[1]),
            student=learner,
            teacher=self._guided(student, predict, tokens, text, negative),
        )

    def forward_passes(self, num_tokens: int) -> float:
        """Calls of a model without gradient that a sample takes on average."""
        count = len(self.levels) - 1
        sub_steps = (self._teacher_path(self.levels[:-1], num_tokens).diff() < 0).sum(1).double()
        own = self.config.own_inputs * torch.arange(count, dtype=torch.float64)
        return float((self._shares * (sub_steps * len(self.guidance.passes) + own)).sum())

    def _own_path(self, start: Tensor, sigma: Tensor) -> Tensor:
        """The student's levels from `start` down to `sigma`, for each sample (b, N + 1)."""
        levels = self.levels.to(sigma.device).expand(len(sigma), -1)
        return torch.minimum(torch.maximum(levels, sigma[:, None]), start[:, None])

    def _teacher_path(self, sigma: Tensor, num_tokens: int) -> Tensor:
        """Levels that the teacher visits between each sample's level and the student's next, (b, J + 1)."""
        levels = self.levels.to(sigma.device)
        place = (levels[:-1] - sigma[:, None]).abs().argmin(dim=1)
        return self._paths_at(num_tokens).to(sigma.device)[place]

    def _paths_at(self, num_tokens: int) -> Tensor:
        """A path for each of the student's steps (N, J + 1)."""
        if num_tokens not in self._paths:
            scheduler = self._teacher_scheduler
            shifted = None if scheduler.config.shifting is None else num_tokens
            visited = _levels(scheduler, self.config.teacher_steps, shifted)
            if scheduler.config.allowed_inference_steps is not None:
                _check_within(self.levels, visited)
            paths = []
            for above, below in zip(self.levels[:-1], self.levels[1:], strict=True):
                inside = visited[(visited < above - _SAME_LEVEL) & (visited > below + _SAME_LEVEL)]
                paths.append(torch.cat([above[None], inside, below[None]]))
            longest = max(map(len, paths))
            self._paths[num_tokens] = torch.stack(
                [torch.cat([path, path[-1:].expand(longest - len(path))]) for path in paths]
            )
        return self._paths[num_tokens]

    def _guided(
        self,
        student: LTXTransformer3DModel,
        predict: Predict,
        tokens: TrainingTokens,
        text: TextFeatures,
        negative: TextFeatures,
    ) -> Velocity:
        """The teacher with its guidance, the passes of which are one call."""
        count = len(text.embeds)
        texts = {"positive": text, "negative": _repeated(negative, count)}
        chosen = [texts[each.text] for each in self.guidance.passes]
        together = _joined(chosen)

        def velocity(noisy: Tensor, levels: Tensor, rows: Tensor) -> Tensor:
            some = tokens.of_samples(rows)
            repeats = range(len(chosen))
            batch = TrainingTokens(
                tokens=torch.cat([noisy for _ in repeats]),
                levels=torch.cat([levels for _ in repeats]),
                coords=torch.cat([some.coords for _ in repeats]),
                target=some.target,
                counts=some.counts,
                rows=tuple(index * count + row for index in repeats for row in some.rows),
            )
            with torch.no_grad(), self._frozen(student) as teacher:
                predicted = predict(teacher, batch, together).float()
            return self.guidance.combine(predicted.chunk(len(chosen)))

        return velocity

    @contextmanager
    def _frozen(self, student: LTXTransformer3DModel) -> Iterator[LTXTransformer3DModel]:
        if self.teacher is not None:
            yield self.teacher.to(student.device)
            return
        student.disable_adapters()
        try:
            yield student
        finally:
            student.enable_adapters()


def open_distillation(config: TransformerTrainConfig, base: BaseModel) -> Distillation | None:
    """The distillation of a run, or None if it has none; before an adapter is put into the student.

    Args:
        config: Settings of the run.
        base: What it begins with. Its weights, as they are now, are the teacher if the config names none.

    Raises:
        InputError: If the teacher can't be loaded or doesn't fit, or as `Distillation` does.
    """
    settings = config.distillation
    if settings is None:
        return None
    if settings.teacher is None:
        teacher = None if config.adapter is not None else copy.deepcopy(base.transformer)
        scheduler = base.scheduler
    else:
        teacher, scheduler = _load_teacher(settings.teacher)
        for field in _ALIKE:
            theirs, ours = (model.config.get(field) for model in (teacher, base.transformer))
            if theirs != ours:
                raise InputError(
                    f"config key 'distillation.teacher': teacher and student differ in {field}",
                    got=f"{theirs} and {ours}",
                )
        if config.attention_backend is not None:
            teacher.set_attention_backend(config.attention_backend)
    if teacher is not None:
        teacher.requires_grad_(False).eval()
    return Distillation(settings, teacher, scheduler, base.scheduler)


def few_step_scheduler(scheduler: LTXFlowMatchScheduler, steps: int) -> LTXFlowMatchScheduler:
    """A scheduler with the same schedule that takes this many steps and no others, without guidance.

    Raises:
        InputError: If the schedule depends on the resolution, or isn't one for so many steps.
    """
    if scheduler.config.shifting is not None:
        raise InputError(
            "the student's noise levels depend on the resolution: its scheduler shifts them",
            got=f"shifting={scheduler.config.shifting}",
            fix="give the config a scheduler without: scheduler: {schedule: linear-quadratic}",
        )
    free = LTXFlowMatchScheduler.from_config(scheduler.config, allowed_inference_steps=None)
    levels = _levels(free, steps)[:-1]
    return LTXFlowMatchScheduler.from_config(
        scheduler.config,
        allowed_inference_steps=[round(level, _ALLOWED_DIGITS) for level in levels.tolist()],
        default_num_inference_steps=steps,
        default_guidance_scale=1.0,
        stochastic_sampling=False,
    )


def _load_teacher(source: str) -> tuple[LTXTransformer3DModel, LTXFlowMatchScheduler]:
    folder = str(embedded_model_path()) if source == "embedded" else str(Path(source).expanduser())
    # As a pipeline, which states what a release's configs leave out.
    pipeline = load_part(LTXPipeline, folder, "distillation.teacher", text_encoder=None, tokenizer=None)
    return pipeline.transformer, pipeline.scheduler


def _levels(scheduler: LTXFlowMatchScheduler, steps: int, num_tokens: int | None = None) -> Tensor:
    """Levels of a schedule with the closing 0, (steps + 1,) float32."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, num_tokens=num_tokens)
    return scheduler.sigmas.clone()


def _check_within(levels: Tensor, visited: Tensor) -> None:
    """Raise `InputError` if a teacher of few levels wasn't made for one of the student's."""
    for level in levels.tolist():
        if (visited - level).abs().min() > _SAME_LEVEL:
            raise InputError(
                "the teacher was distilled for certain noise levels only, and the student has another",
                got=f"sigma {level:.4f}",
                expected=f"of {[round(value, _ALLOWED_DIGITS) for value in visited.tolist()]}",
                fix="choose distillation.steps and the schedule so that the student's levels are some of these",
            )


def _velocity(
    model: LTXTransformer3DModel, predict: Predict, tokens: TrainingTokens, text: TextFeatures
) -> Velocity:
    def velocity(noisy: Tensor, levels: Tensor, rows: Tensor) -> Tensor:
        return predict(model, tokens.of_samples(rows).with_noise(noisy, levels), text).float()

    return velocity


def _repeated(text: TextFeatures, count: int) -> TextFeatures:
    """One text for each of several samples."""
    return TextFeatures(text.embeds.expand(count, -1, -1), text.mask.expand(count, -1))


def _joined(texts: Sequence[TextFeatures]) -> TextFeatures:
    """Batches of texts one after the other, padded to the longest."""
    longest = max(text.embeds.shape[1] for text in texts)
    embeds = [pad(text.embeds, (0, 0, 0, longest - text.embeds.shape[1])) for text in texts]
    masks = [pad(text.mask, (0, longest - text.mask.shape[1])) for text in texts]
    return TextFeatures(torch.cat(embeds), torch.cat(masks))
