"""Training the transformer with its text encoder: text-to-video and image-to-video together (paper, section 2.3)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from ..data.moving_shapes import vocabulary
from ..data.pictures import contact_sheet
from ..data.video import write_video
from ..denoising.state import at_noise_level, from_noise, token_levels, velocity_target
from ..errors import InputError
from ..functional.coordinates import Placement
from ..geometry import CompressionRatios, VideoSize
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ..models.transformers.transformer_ltx import LTXTransformer3DModel
from ..objectives import objectives
from ..objectives.flow_matching import FlowPass
from ..pipelines.pipeline_ltx import LTXPipeline
from ..schedulers.densities import build_timestep_density
from ..schedulers.flow_match import LTXFlowMatchScheduler
from .clips import open_clips
from .conditioning import (
    ConditionShares,
    GivenClip,
    GivenRegion,
    GrayBox,
    Piece,
    random_box,
    with_drawn_conditions,
)
from .config import RunConfig, StrictModel, build, load_part, share_of_batch
from .latent_cache import View, cached_posteriors
from .processes import join_processes
from .text import build_text_encoder, build_word_tokenizer

_VALIDATION_SEED = 1
_VALIDATION_CLIPS = 64


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


class TransformerTrainConfig(RunConfig):
    """Config of `ltx-diffusers train transformer`.

    Attributes:
        vae: Folder of the finished VAE.
        model: Arguments of `LTXTransformer3DModel`.
        text_encoder: Fields of `T5Config`.
        text_length: Longest text in tokens.
        scheduler: Arguments of the `LTXFlowMatchScheduler` that the finished pipeline samples with.
        initial_weights: Folder of a pipeline to go on from, or None for random weights.
        steps: Optimizer steps.
        batch_size: Clips of a step, over all processes.
        cached_clips: Training clips whose latents are encoded beforehand; every clip's wording is drawn anew.
        objective: A registered objective for `FlowPass`.
        density: Noise levels.
        caption_dropout: Share of captions replaced by the empty one, for classifier-free guidance.
        conditions: What is given besides the prompt, and how often.
        validation_prompts: Held-out prompts that a video is made for at each validation.
        attention_backend: One of Diffusers' attention backends; "_native_math" is the fastest for a few dozen tokens
            on a CPU. None for the default.
        export_dtype: Data type of the exported weights.
    """

    vae: str
    model: dict[str, Any] = Field(default_factory=dict)
    text_encoder: dict[str, Any] = Field(default_factory=dict)
    text_length: int = Field(default=32, gt=1)
    scheduler: dict[str, Any] = Field(default_factory=dict)
    initial_weights: str | None = None
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    cached_clips: int = Field(default=8192, gt=0)
    objective: str = "flow-matching"
    density: DensityConfig = DensityConfig()
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    conditions: ConditionShares = ConditionShares()
    validation_prompts: int = Field(default=8, gt=0, le=_VALIDATION_CLIPS)
    attention_backend: str | None = None
    export_dtype: str = Field(default="bfloat16", pattern="^(float32|bfloat16|float16)$")


class TransformerTrainingModule(torch.nn.Module):
    """Transformer, text encoder and objective: one call is one training pass.

    Args:
        transformer: The model to train.
        text_encoder: Trained along.
        config: Settings of the run.
        ratios: Compression of the VAE, for coordinates.

    Raises:
        InputError: If the config's objective isn't one of a transformer.
    """

    def __init__(
        self,
        transformer: LTXTransformer3DModel,
        text_encoder: torch.nn.Module,
        config: TransformerTrainConfig,
        ratios: CompressionRatios,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.config = config
        self.ratios = ratios
        self.density = build_timestep_density(config.density.name, **config.density.options)
        self.objective = objectives.get(config.objective)()
        if self.objective.inputs is not FlowPass:
            raise InputError(f"the objective {config.objective!r} is not one of a transformer")

    def forward(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Losses (B,) of a batch.

        Args:
            batch: Posteriors `mean` (B, C, F, H, W) and `deviation`, `input_ids`, `text_mask`; in a step with a clip
                that is given, its number in the config `clip` (), `clip_mean` and `clip_deviation`; where regions are
                given, `region_mean`, `region_deviation` and `region_keep` (B, F, H, W).
            generator: Source of all noise.
        """
        device = batch["mean"].device

        def draw(*shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=generator, device=device)

        def draw_normal(like: torch.Tensor) -> torch.Tensor:
            return torch.randn(like.shape, generator=generator, device=device)

        batch_size = batch["mean"].shape[0]
        latents = batch["mean"] + batch["deviation"] * draw_normal(batch["mean"])
        clip = region = None
        if "clip" in batch:
            mean = batch["clip_mean"]
            clip = GivenClip(
                mean + batch["clip_deviation"] * draw_normal(mean),
                self.config.conditions.clips[int(batch["clip"])].frame,
            )
        if "region_keep" in batch:
            mean = batch["region_mean"]
            region = GivenRegion(mean + batch["region_deviation"] * draw_normal(mean), batch["region_keep"])
        placement = Placement(
            self.config.data.frame_rate, self.transformer.config.causal_temporal_positioning, self.ratios
        )
        state = from_noise(draw_normal(latents), placement, clean=latents)
        state = with_drawn_conditions(state, latents, self.config.conditions, draw, clip, region)
        sigma = self.density.sample(
            batch_size,
            num_tokens=state.num_target,
            generator=generator,
            device=device,
            stratified=self.config.density.stratified,
        )
        noised = at_noise_level(state, sigma, generator)
        levels = token_levels(state, sigma)
        text = self.text_encoder(input_ids=batch["input_ids"], attention_mask=batch["text_mask"])[0]
        prediction = self.transformer(
            noised.tokens,
            encoder_hidden_states=text,
            timestep=levels * self.transformer.config.timestep_scale_multiplier,
            encoder_attention_mask=batch["text_mask"],
            video_coords=state.coords,
            return_dict=False,
        )[0]
        record = FlowPass(prediction.float(), velocity_target(state), state.strength == 0)
        return {"loss": self.objective(record)}


class TransformerTask:
    """The `Task` (see training/loop.py) of training a transformer. Raises `InputError` for settings that can't work."""

    def __init__(self, config: TransformerTrainConfig) -> None:
        self.config = config
        self.total_steps = config.steps
        data = config.data
        _check_clips(config)
        share_of_batch(
            config.batch_size, join_processes().num_processes * config.accumulate
        )  # now, not after the clips are encoded
        self.vae = load_part(AutoencoderKLLTX, config.vae, "vae").requires_grad_(False).eval()
        self.ratios = CompressionRatios(
            self.vae.temporal_compression_ratio,
            self.vae.spatial_compression_ratio,
            self.vae.spatial_compression_ratio,
        )
        torch.manual_seed(config.seed)
        if config.initial_weights is None:
            self.tokenizer = build_word_tokenizer(vocabulary(), config.text_length)
            text_encoder = build_text_encoder(self.tokenizer, config.text_encoder)
            transformer = build(LTXTransformer3DModel, config.model, "model")
        else:
            pipeline = load_part(LTXPipeline, config.initial_weights, "initial_weights", dtype=torch.float32)
            self.tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
            transformer = pipeline.transformer
        if transformer.config.causal_temporal_positioning is None:
            raise InputError(
                "the transformer to train must state its time coordinates",
                fix="set model.causal_temporal_positioning=true (as 0.9.5 and later) or false",
            )
        if config.attention_backend is not None:
            try:
                transformer.set_attention_backend(config.attention_backend)
            except (ValueError, RuntimeError, ImportError) as error:
                raise InputError(
                    "config key 'attention_backend' can't be used",
                    got=config.attention_backend,
                    fix=str(error),
                ) from None
        if config.conditions.region:
            transformer.register_to_config(regions_hidden=True)
        self.scheduler = build(LTXFlowMatchScheduler, config.scheduler, "scheduler")
        self.module = TransformerTrainingModule(transformer, text_encoder, config, self.ratios)
        self.clips = open_clips(data, "train")
        self.held_out = open_clips(data, "held-out")
        folder = Path(config.output) / "cache"
        processes = join_processes()
        self.vae.to(processes.device)
        with processes.main_process_first():  # the others find the file
            self.posteriors = cached_posteriors(self.vae, self.clips, config.cached_clips, folder)
            self.clip_posteriors = [
                self._viewed(Piece(clip.frame, clip.frames)) for clip in config.conditions.clips
            ]
            self.region_posteriors = self._viewed(GrayBox(self.ratios)) if config.conditions.region else None
            self.held_out_posteriors = cached_posteriors(self.vae, self.held_out, _VALIDATION_CLIPS, folder)

    def batch(self, step: int, rank: int, world_size: int) -> dict[str, torch.Tensor]:
        """This rank's latents and texts of a step; see `TransformerTrainingModule.forward`."""
        numbers, rng = self._share(step, rank, world_size)
        captions = [
            "" if rng.random() < self.config.caption_dropout else self.clips.caption(number, rng)
            for number in numbers
        ]
        inputs = self._inputs(self.posteriors, numbers, captions)
        # The same for all ranks, whose sequences must have one length.
        draw = np.random.default_rng([self.config.seed, step, 0, 1]).random()
        clip = self.config.conditions.clip_of_step(draw)
        if clip is not None:
            mean, deviation = self.clip_posteriors[clip]
            inputs |= {
                "clip": torch.tensor(clip),
                "clip_mean": mean[numbers],
                "clip_deviation": deviation[numbers],
            }
        if self.region_posteriors is not None:
            mean, deviation = self.region_posteriors
            boxes = np.stack([random_box(number, VideoSize(*mean.shape[2:])) for number in numbers])
            inputs |= {
                "region_mean": mean[numbers],
                "region_deviation": deviation[numbers],
                "region_keep": torch.from_numpy(boxes).float(),
            }
        return inputs

    def describe_sample(self, step: int, rank: int, world_size: int, index: int) -> str:
        """Number of a sample's clip in its set."""
        return f"clip {self._share(step, rank, world_size)[0][index]} of {self.config.data.reader}"

    @torch.no_grad()
    def validate(self, folder: Path) -> dict[str, float]:
        """Loss on held-out clips at fixed draws; a video for each of some held-out prompts, and a sheet of them."""
        device = self.module.transformer.device
        rng = np.random.default_rng(_VALIDATION_SEED)
        numbers = list(range(_VALIDATION_CLIPS))
        captions = [self.held_out.caption(number, rng) for number in numbers]
        inputs = self._inputs(self.held_out_posteriors, numbers, captions)
        inputs = {name: value.to(device) for name, value in inputs.items()}
        generator = torch.Generator(device).manual_seed(_VALIDATION_SEED)
        loss = self.module(inputs, generator)["loss"].mean().item()

        prompts = captions[: self.config.validation_prompts]
        data = self.config.data
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        videos = pipeline(
            prompts,
            height=data.height,
            width=data.width,
            num_frames=data.num_frames,
            frame_rate=data.frame_rate,
            generator=[torch.Generator().manual_seed(index) for index in range(len(prompts))],
            output_type="np",
        ).frames
        videos = [(video * 255).round().astype(np.uint8) for video in videos]
        contact_sheet(videos, prompts, path=folder / "videos.png")
        for index, video in enumerate(videos):
            write_video(folder / f"{index:02d}.mp4", video, data.frame_rate, {"prompt": prompts[index]})
        return {"held_out_loss": loss}

    def finish(self) -> None:
        """Nothing is left to measure."""

    def export(self, folder: Path) -> None:
        """Save the pipeline."""
        dtype = getattr(torch, self.config.export_dtype)
        pipeline = self.pipeline()
        parts = {
            name: copy.deepcopy(part).to(dtype) if isinstance(part, torch.nn.Module) else part
            for name, part in pipeline.components.items()
        }
        LTXPipeline(**parts).save_pretrained(folder)

    def pipeline(self) -> LTXPipeline:
        """The models under training as a pipeline."""
        return LTXPipeline(
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=self.module.text_encoder,
            tokenizer=self.tokenizer,
            transformer=self.module.transformer,
        )

    def _viewed(self, view: View) -> tuple[torch.Tensor, torch.Tensor]:
        """Posteriors of a view of the training clips."""
        config = self.config
        return cached_posteriors(
            self.vae, self.clips, config.cached_clips, Path(config.output) / "cache", view
        )

    def _inputs(
        self, posteriors: tuple[torch.Tensor, torch.Tensor], numbers: list[int], captions: list[str]
    ) -> dict[str, torch.Tensor]:
        mean, deviation = posteriors
        text = self.tokenizer(
            captions, padding=True, truncation=True, max_length=self.config.text_length, return_tensors="pt"
        )
        return {
            "mean": mean[numbers],
            "deviation": deviation[numbers],
            "input_ids": text.input_ids,
            "text_mask": text.attention_mask,
        }

    def _share(self, step: int, rank: int, world_size: int) -> tuple[list[int], np.random.Generator]:
        """The numbers of the clips that a rank takes at a step, and the generator of their wordings."""
        size = share_of_batch(self.config.batch_size, world_size)
        numbers = np.random.default_rng([self.config.seed, step]).integers(
            self.config.cached_clips, size=self.config.batch_size
        )
        share = numbers[rank * size : (rank + 1) * size]
        # From 1 on: numpy ignores zeros at the end of a seed, and rank 0 would draw the clips' numbers again.
        return share.tolist(), np.random.default_rng([self.config.seed, step, 1 + rank])


def _check_clips(config: TransformerTrainConfig) -> None:
    """Raise `InputError` for a clip that can't be given."""
    for clip in config.conditions.clips:
        if clip.frame + clip.frames > config.data.num_frames:
            raise InputError(
                "config key 'conditions.clips': a clip reaches beyond the video",
                got=f"frames {clip.frame} to {clip.frame + clip.frames - 1}",
                expected=f"frames up to {config.data.num_frames - 1}",
            )
