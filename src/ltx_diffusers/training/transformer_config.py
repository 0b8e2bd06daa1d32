"""Configs of training a transformer: from scratch, fully, or by adapters (LoRA, DoRA). A mode is a config.

| mode | config |
|---|---|
| from scratch, with the text encoder | `model`, no `initial_weights` |
| from scratch, with a finished VAE and text encoder | `model`, `initial_weights` and `random_weights` |
| full fine-tuning | `initial_weights` |
| LoRA or DoRA | `initial_weights` and `adapter` |
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ..geometry import VideoSize, check_video_size
from .conditioning import ConditionShares
from .config import RunConfig, StrictModel

_MOST_PROMPTS = 64


class DensityConfig(StrictModel):
    """Where training's noise levels come from.

    Attributes:
        name: A registered timestep density.
        options: Its settings.
        stratified: Spread the levels of a batch evenly over the density.
    """

    name: str = "logit-normal"
    options: dict[str, Any] = Field(default_factory=dict)
    stratified: bool = True


class WeightingConfig(StrictModel):
    """How much a sample counts by its noise level, apart from how often that level is drawn.

    Attributes:
        name: A registered loss weighting.
        options: Its settings.
    """

    name: str = "none"
    options: dict[str, Any] = Field(default_factory=dict)


class AdapterConfig(StrictModel):
    """A LoRA of the transformer, through PEFT; its other weights and the text encoder stay as they are.

    Attributes:
        rank: r. The update of a layer is alpha / r times the product of two matrices of this rank.
        alpha: See `rank`; the rank itself if None.
        targets: Which linear layers: names, ends of names ("to_q"), or patterns of either ("attn1.to_?",
            "transformer_blocks.2?.*").
        dropout: Share of a layer's inputs that the adapter doesn't see in training. Drawn for a pass, not for each of
            its samples: with it the processes and passes that a batch is divided into matter.
        dora: Learn the lengths of the weights' rows apart from their directions (DoRA, Liu et al. 2024).
    """

    rank: int = Field(default=32, gt=0)
    alpha: float | None = Field(default=None, gt=0)
    targets: tuple[str, ...] = Field(default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dora: bool = False


class DistillationConfig(StrictModel):
    """A student of few steps, and its teacher.

    Attributes:
        steps: Steps that the student samples with; its noise levels are those of its `scheduler` for so many.
        teacher: Folder of the teacher's pipeline, or "embedded"; None for the run's initial weights. Texts are encoded
            by the student's own text encoder.
        teacher_steps: Steps that the teacher takes from noise to video. It also stops at the student's levels.
        guidance_scale: Classifier-free guidance of the teacher, which the student learns to do without; None for the
            default of the teacher's scheduler, which is the run's if `teacher` is None.
        negative_prompt: What the teacher's guidance leads away from.
        own_inputs: Share of the samples that the student itself brings from pure noise to the level that is trained,
            instead of noised data.
        step_power: The student's levels come up in proportion to the length of their steps to this power; 0: alike.
    """

    steps: int = Field(default=8, gt=0)
    teacher: str | None = None
    teacher_steps: int = Field(default=32, gt=0)
    guidance_scale: float | None = Field(default=None, ge=0)
    negative_prompt: str = ""
    own_inputs: float = Field(default=0.5, ge=0, le=1)
    step_power: float = Field(default=0.5, ge=0)


class SizeBucket(StrictModel):
    """A size of clips; a run may have several, pictures (one frame) among them.

    Attributes:
        num_frames, height, width: In frames and pixels.
        share: Share of the samples, beside those of the other buckets.
        batch_size: Samples of a step with this size; the run's batch size if None.
    """

    num_frames: int
    height: int
    width: int
    share: float = Field(default=1.0, gt=0)
    batch_size: int | None = Field(default=None, gt=0)

    def model_post_init(self, _context: Any) -> None:
        """Check the size. Raises `InputError` naming the nearest valid one."""
        check_video_size(self.num_frames, self.height, self.width)

    @property
    def size(self) -> VideoSize:
        """Frames, height and width in pixels."""
        return VideoSize(self.num_frames, self.height, self.width)


class SampleConfig(StrictModel):
    """Videos that are made at each validation, and for the card of a finished LoRA.

    Attributes:
        prompts: What for; without any, captions of held-out clips.
        images: Files of first frames, one for each prompt; none for text-to-video.
        references: Files of reference videos (in-context LoRA), one for each prompt; cut to the size of the videos,
            divided by `reference_scale`.
        reference_scale: Pixels of the video for one of the reference.
        negative_prompt: What to keep away from.
        num_frames, height, width, frame_rate: Of the videos; those of the data if None.
        num_inference_steps, guidance_scale: As the pipeline has them if None.
        seed: Of the first video; the next ones follow.
    """

    prompts: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    reference_scale: int = Field(default=1, gt=0)
    negative_prompt: str = ""
    num_frames: int | None = Field(default=None, gt=0)
    height: int | None = Field(default=None, gt=0)
    width: int | None = Field(default=None, gt=0)
    frame_rate: float | None = Field(default=None, gt=0)
    num_inference_steps: int | None = Field(default=None, gt=0)
    guidance_scale: float | None = Field(default=None, ge=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_files(self) -> SampleConfig:
        for name, files in (("images", self.images), ("references", self.references)):
            if files and len(files) != len(self.prompts):
                raise ValueError(f"{len(files)} {name} for {len(self.prompts)} prompts; give one for each")
        return self


class TransformerTrainConfig(RunConfig):
    """Config of `ltx-diffusers train transformer` and `train lora`.

    Attributes:
        vae: Folder of the finished VAE; None for that of `initial_weights`.
        model: Arguments of `LTXTransformer3DModel`, for training from scratch.
        text_encoder: Fields of `T5Config`, for training from scratch.
        train_text_encoder: Whether the text encoder is trained along; None: if the transformer is trained as a whole,
            without a teacher.
        text_encoder_device: Where a text encoder works that isn't trained: "auto" is the processes' own device. Each
            caption is encoded once, so that "cpu" costs little and saves the GPU the encoder's memory.
        text_length: Longest text in tokens.
        scheduler: Arguments of the `LTXFlowMatchScheduler` that the finished pipeline samples with; left out with
            `initial_weights`, theirs stays.
        initial_weights: A pipeline to go on from: its folder, a repository on the Hub, or an official checkpoint
            file. None for random weights.
        random_weights: Build the transformer anew from `model` all the same, and take only the other parts from
            `initial_weights`: pretraining with a finished VAE and text encoder.
        initial_text_encoder: For a checkpoint file: folder or repository with the text encoder and its tokenizer.
        release: For a checkpoint file that doesn't tell its release: which.
        adapter: Train a LoRA with these settings; None trains all weights.
        base_dtype: Data type that the weights beside an adapter are kept in.
        base_storage: Keep the linear layers beside an adapter in 8 bits or 4: "fp8" (layerwise casting), "int8"
            (torchao) or "nf4" (bitsandbytes).
        steps: Optimizer steps.
        batch_size: Samples of a step, over all processes.
        source: Where latents come from. "encoded": the first `cached_clips` clips of the data, encoded at the start
            and kept; "on-the-fly": the data's clips, encoded at each step; "latents": what `ltx-diffusers precompute`
            has written into the folder `latents`.
        latents: See `source`.
        cached_clips: Clips of each size that are encoded beforehand; every clip's wording is drawn anew.
        buckets: Sizes of clips; without any the data's one size, or all that the folder of latents has.
        token_dropping: Largest share of a video's tokens that may be left out at random, so that samples of about
            equal token counts make one batch (paper, section 2.3: up to 0.2).
        objective: A registered objective for `FlowPass`, or with `distillation` one for `TrajectoryPass`.
        distillation: Teach the model to sample in few steps, with an objective such as "trajectory-distillation"; its
            noise levels stand in place of `density`.
        density: Noise levels.
        weighting: Weights of noise levels in the loss.
        caption_dropout: Share of captions replaced by the empty one, for classifier-free guidance.
        caption_prefix: Put before every caption: a word that a LoRA is called by.
        conditions: What is given besides the prompt, and how often.
        validation_clips: Held-out clips that the loss is measured on; 0 for none. Of `validation_latents` as many of
            each size.
        validation_latents: With `source: latents`, a folder of held-out latents for the same.
        validation_prompts: Captions of held-out clips that a video is made for at each validation, if `samples` has no
            prompts; none with `source: latents`, or where `validation_clips` is 0.
        samples: Videos made at each validation.
        attention_backend: One of Diffusers' attention backends; "_native_math" is the fastest for a few dozen tokens
            on a CPU. None for the default.
        export_dtype: Data type of the exported weights.
    """

    vae: str | None = None
    model: dict[str, Any] = Field(default_factory=dict)
    text_encoder: dict[str, Any] = Field(default_factory=dict)
    train_text_encoder: bool | None = None
    text_encoder_device: Literal["auto", "cpu"] = "auto"
    text_length: int = Field(default=32, gt=1)
    scheduler: dict[str, Any] = Field(default_factory=dict)
    initial_weights: str | None = None
    random_weights: bool = False
    initial_text_encoder: str | None = None
    release: str | None = None
    adapter: AdapterConfig | None = None
    base_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    base_storage: Literal["fp8", "int8", "nf4"] | None = None
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    source: Literal["encoded", "on-the-fly", "latents"] = "encoded"
    latents: str | None = None
    cached_clips: int = Field(default=8192, gt=0)
    buckets: tuple[SizeBucket, ...] = ()
    token_dropping: float = Field(default=0.0, ge=0, le=0.9)
    objective: str = "flow-matching"
    distillation: DistillationConfig | None = None
    density: DensityConfig = DensityConfig()
    weighting: WeightingConfig = WeightingConfig()
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    caption_prefix: str = ""
    conditions: ConditionShares = ConditionShares()
    validation_clips: int = Field(default=64, ge=0)
    validation_latents: str | None = None
    validation_prompts: int = Field(default=8, gt=0, le=_MOST_PROMPTS)
    samples: SampleConfig = SampleConfig()
    attention_backend: str | None = None
    export_dtype: str = Field(default="bfloat16", pattern="^(float32|bfloat16|float16)$")

    @model_validator(mode="after")
    def _check_mode(self) -> TransformerTrainConfig:
        if self.adapter is not None and self.initial_weights is None:
            raise ValueError("an adapter needs initial_weights, the model that it changes")
        if self.adapter is not None and self.train_text_encoder:
            raise ValueError(
                "train_text_encoder doesn't go with an adapter, which leaves the text encoder as it is"
            )
        if self.adapter is None and (self.base_storage is not None or self.base_dtype != "float32"):
            raise ValueError(
                "base_dtype and base_storage go with an adapter: weights that are trained stay float32"
            )
        if self.adapter is not None and self.adapter.dora and self.base_storage == "fp8":
            raise ValueError("DoRA computes with the base's weights, and fp8 ones can't be: take int8 or nf4")
        if self.distillation is not None:
            if self.initial_weights is None:
                raise ValueError("distillation needs initial_weights, the model that becomes the student")
            if self.train_text_encoder:
                raise ValueError("distillation leaves the text encoder as the teacher knows it")
        if self.random_weights and (self.initial_weights is None or self.adapter is not None):
            raise ValueError("random_weights goes with initial_weights and without an adapter")
        if self.vae is None and self.initial_weights is None:
            raise ValueError("vae is needed where there are no initial_weights")
        if self.initial_weights is not None and self.model and not self.random_weights:
            raise ValueError(
                "model is for a transformer that is built anew: add random_weights: true, or leave model out"
            )
        if self.initial_weights is not None and self.text_encoder:
            raise ValueError("text_encoder is for training from scratch: initial_weights bring theirs")
        if self.data.read_ahead:
            raise ValueError(
                "data.read_ahead is for training a VAE: the transformer's latents aren't read ahead"
            )
        if (self.source == "latents") != (self.latents is not None):
            raise ValueError("source: latents and the folder latents= go together")
        if self.validation_latents is not None and self.latents is None:
            raise ValueError("validation_latents goes with source: latents; else held-out clips are encoded")
        if self.source == "latents" and self.conditions.reference_scale != 1:
            raise ValueError(
                "conditions.reference_scale is for references that the run encodes; latents have theirs, "
                "from `ltx-diffusers precompute --reference-scale`"
            )
        return self

    @property
    def trains_text_encoder(self) -> bool:
        """Whether the text encoder is trained along."""
        if self.train_text_encoder is not None:
            return self.train_text_encoder
        return self.adapter is None and self.distillation is None
