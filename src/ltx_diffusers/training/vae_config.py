"""Config of the VAE's training: stages, buckets, objectives and the discriminator's side."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ..errors import InputError
from ..geometry import LTX_RATIOS, check_video_size
from ..objectives import objectives
from ..objectives.composition import Composition, Term
from ..objectives.vae_objective import CONSTANT, Balance, VAEObjective
from .config import OptimizerConfig, RunConfig, StrictModel, build


class BucketConfig(StrictModel):
    """Clips of one size, of which a step's batch consists.

    Attributes:
        num_frames: Frames of a clip (8k+1); 1 trains on single frames.
        height, width: Size in pixels; None takes that of `data`.
        batch_size: Clips of a step, over all processes.
        share: How often the bucket is drawn, relative to the stage's others.
        stride: Every which frame of the data is taken; 2 makes motion twice as fast.
    """

    num_frames: int
    height: int | None = None
    width: int | None = None
    batch_size: int = Field(gt=0)
    share: float = Field(default=1.0, gt=0)
    stride: int = Field(default=1, gt=0)

    def model_post_init(self, _context: Any) -> None:
        """Check the size. Raises `InputError` naming the nearest valid one."""
        check_video_size(self.num_frames, self.height or LTX_RATIOS.height, self.width or LTX_RATIOS.width)


class VAEStage(StrictModel):
    """A part of the run with its own clips: all of one size, or of several in `buckets`.

    Attributes:
        steps: Optimizer steps.
        num_frames: Frames of a clip (8k+1); 1 trains on single frames.
        batch_size: Clips of a step, over all processes.
        buckets: Instead of the two above; each step draws one of them, the same for all processes.
        foreground_weight: How much more pixels far from the clip's median colour count; 0 counts all alike.
    """

    steps: int = Field(gt=0)
    num_frames: int | None = None
    batch_size: int | None = Field(default=None, gt=0)
    buckets: tuple[BucketConfig, ...] = ()
    foreground_weight: float = Field(default=0.0, ge=0)

    def model_post_init(self, _context: Any) -> None:
        """Check what the clips are. Raises `InputError` naming the nearest valid numbers of frames."""
        single = self.num_frames is not None and self.batch_size is not None
        if single == bool(self.buckets) or (self.buckets and (self.num_frames or self.batch_size)):
            raise InputError("a stage needs num_frames and batch_size, or else buckets")
        self.all_buckets()

    def all_buckets(self) -> tuple[BucketConfig, ...]:
        """The buckets; one if the stage has clips of one size."""
        if self.buckets:
            return self.buckets
        return (BucketConfig(num_frames=self.num_frames, batch_size=self.batch_size),)


class BalanceConfig(StrictModel):
    """How an objective's factor is found; see `objectives.vae_objective.Balance`.

    Attributes:
        kind: "constant", or "adaptive" by the ratio of two gradients.
        layer: By the last convolution of "decoder" or "encoder"; None takes the objective's own choice.
        cap: Largest factor; None takes the objective's own choice.
    """

    kind: Literal["constant", "adaptive"]
    layer: Literal["encoder", "decoder"] | None = None
    cap: float | None = Field(default=None, gt=0)


class ObjectiveConfig(StrictModel):
    """An objective with more than a weight.

    Attributes:
        name: Name of a registered objective; None takes the key that this stands under.
        weight: Factor of its loss.
        start_step: First step that it takes part in.
        balance: How another factor is found; None takes the objective's own choice.
        options: Its settings.
    """

    name: str | None = None
    weight: float = Field(default=1.0, ge=0)
    start_step: int = Field(default=0, ge=0)
    balance: BalanceConfig | None = None
    options: dict[str, Any] = Field(default_factory=dict)


def _form(entry: Any) -> str:
    """Tells the two forms apart before either is checked, so that an error is about the one that was meant."""
    return "section" if isinstance(entry, (dict, ObjectiveConfig)) else "weight"


ObjectiveEntry = Annotated[
    Annotated[float, Tag("weight")] | Annotated[ObjectiveConfig, Tag("section")], Discriminator(_form)
]
"""A weight, or a section with more."""


class DiscriminatorConfig(StrictModel):
    """Training of the discriminators of all adversarial objectives.

    Attributes:
        optimizer: Their own; its schedule counts from their first step.
        start_step: Their first step; None takes the first one of an adversarial objective. An earlier one lets them
            learn before their verdict counts.
    """

    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", learning_rate=1e-4, betas=(0.5, 0.9), warmup_steps=0, schedule="constant"
    )
    start_step: int | None = Field(default=None, ge=0)


class VAETrainConfig(RunConfig):
    """Config of `ltx-diffusers train vae`.

    Attributes:
        model: Arguments of `AutoencoderKLLTX`.
        initial_weights: Folder of a VAE to start from, or None for random weights.
        initial_objectives: Folder `objectives` of an earlier run to start the discriminators and other learned parts
            of objectives from, or None.
        train: "all", or "decoder" to leave the encoder and the latent statistics as they are.
        stages: One after the other.
        objectives: For each registered objective its weight, or a section with more (see `ObjectiveConfig`).
        learned_scale: Whether the reconstruction losses R enter as R / exp(s) + s with a learned s, from 0 on.
        discriminator: Training of the discriminators, if an objective has some.
        sample_posterior: Whether the decoder gets draws from the posterior, or its mean.
        max_noise_level: The decoder's latents are noised at a level drawn from [0, this] if it is conditioned on one.
        clean_share: Share of samples whose level is 0.
        gradient_checkpointing: Whether activations are computed again instead of kept: slower, in less memory.
        statistics_clips: Held-in clips that the latent statistics are measured on at the end.
        validation_clips: Held-out clips that are reconstructed at each validation.
    """

    model: dict[str, Any] = Field(default_factory=dict)
    initial_weights: str | None = None
    initial_objectives: str | None = None
    train: Literal["all", "decoder"] = "all"
    stages: tuple[VAEStage, ...] = Field(min_length=1)
    objectives: dict[str, ObjectiveEntry] = Field(default_factory=lambda: {"l1": 1.0, "l2": 1.0, "kl": 1e-4})
    learned_scale: bool = False
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    sample_posterior: bool = True
    max_noise_level: float = Field(default=0.2, ge=0, le=1)
    clean_share: float = Field(default=0.1, ge=0, le=1)
    gradient_checkpointing: bool = False
    statistics_clips: int = Field(default=256, gt=0)
    validation_clips: int = Field(default=8, gt=0)


def compose_objectives(config: VAETrainConfig) -> Composition:
    """Build the objectives that a config names.

    Raises:
        InputError: If an objective isn't one of a VAE, has no such setting, or can't work with the others.
        UnknownNameError: If there is no such objective.
    """
    terms = {}
    for key, entry in config.objectives.items():
        settings = entry if isinstance(entry, ObjectiveConfig) else ObjectiveConfig(weight=float(entry))
        kind = objectives.get(settings.name or key)
        objective = build(kind, settings.options, f"objectives.{key}.options")
        terms[key] = Term(objective, settings.weight, _balance(settings, objective), settings.start_step)
    return Composition(terms, learned_scale=0.0 if config.learned_scale else None)


def _balance(settings: ObjectiveConfig, objective: object) -> Balance:
    own = objective.default_balance if isinstance(objective, VAEObjective) else CONSTANT
    if settings.balance is None:
        return own
    given = settings.balance
    return Balance(given.kind, given.layer or own.layer, given.cap or own.cap)
