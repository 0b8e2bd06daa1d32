"""Training a transformer: from scratch, fully or by a LoRA; text-to-video, image-to-video and the rest together.

What the run consists of is in files of its own: the config (`transformer_config`), the models (`base_model`), samples
(`sources`), batches (`transformer_batches`), the pass from latents to losses (`transformer_pass`), validation videos.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.clips import ClipReader
from ..errors import InputError
from ..geometry import CompressionRatios, VideoSize
from ..pipelines.pipeline_ltx import LTXPipeline
from .base_model import open_base_model
from .clips import open_clips
from .conditioning import Piece
from .config import share_of_batch
from .distillation import open_distillation
from .frozen_text import FrozenTexts, StoredTexts, padded
from .latent_store import LatentStore
from .lora import add_lora, keep_trained_only, write_trained_lora
from .lora_card import write_card_facts
from .loss_bins import noise_level_names
from .processes import join_processes
from .samples import LatentSample
from .sources import EncodedClips, OnTheFly, SampleSource, check_sizes
from .throughput import Work, transformer_flops
from .transformer_batches import Collator, NoiseLevels, Pick, TransformerPlan, views_of
from .transformer_config import TransformerTrainConfig
from .transformer_pass import TransformerTrainingModule
from .validation_videos import ValidationVideos, bucket_name

_VALIDATION_SEED = 1
_VALIDATION_STEP = 2**40
"""Step that validation's draws are made for; no run comes to it."""


class TransformerTask:
    """The `Task` (see training/task.py) of training a transformer. Raises `InputError` for settings that can't work."""

    def __init__(self, config: TransformerTrainConfig) -> None:
        self.config = config
        self.total_steps = config.steps
        processes = join_processes()
        for batch_size in {config.batch_size, *(bucket.batch_size for bucket in config.buckets)} - {None}:
            # Now, not after the clips are encoded.
            share_of_batch(batch_size, processes.num_processes * config.accumulate)
        _check_clips(config)
        stored = None if config.latents is None else LatentStore.open(config.latents)
        has_text = stored is not None and stored.has_text and not config.trains_text_encoder
        base = open_base_model(config, with_text=not has_text)
        self.vae, self.scheduler, self.repository = base.vae, base.scheduler, base.repository
        self.tokenizer = base.tokenizer
        self.ratios = CompressionRatios(
            self.vae.temporal_compression_ratio,
            self.vae.spatial_compression_ratio,
            self.vae.spatial_compression_ratio,
        )
        self.distillation = open_distillation(config, base)
        if self.distillation is not None:
            self.scheduler = self.distillation.student_scheduler
        if config.adapter is not None:
            add_lora(base.transformer, config.adapter)
        trained_encoder = base.text_encoder if config.trains_text_encoder else None
        self.module = TransformerTrainingModule(
            base.transformer, trained_encoder, config, self.ratios, self.distillation
        )
        if config.adapter is not None:
            keep_trained_only(self.module)
        self.texts: FrozenTexts | StoredTexts | None = None
        if has_text:
            self.texts = StoredTexts(stored)
        elif trained_encoder is None:
            device = processes.device if config.text_encoder_device == "auto" else "cpu"
            self.texts = FrozenTexts(base.tokenizer, base.text_encoder.to(device), config.text_length)
        prefix = "" if stored is None else stored.settings["data"]["caption_prefix"]
        self.trigger = f"{config.caption_prefix}{prefix}".strip()
        self.noise_levels = NoiseLevels(config)
        self._open_data(stored)
        self.plan = TransformerPlan(self.source, config, self.ratios)
        self.collator = Collator(self.source, self.plan, config, self.ratios)
        self.bin_names = {
            "timestep": noise_level_names(),
            "bucket": [bucket_name(size) for size in self.plan.sizes],
        }
        self._finished: list[np.ndarray] | None = None

    def _open_data(self, stored: LatentStore | None) -> None:
        """Sources of samples, for training and for validation, and the videos that are made."""
        config = self.config
        processes = join_processes()
        self.held_out: SampleSource | None = None
        if stored is not None:
            _check_latents(stored, config, self.ratios)
            stored.check_vae(self.vae)
            self.source: SampleSource = stored
            self.videos = ValidationVideos(config, ())
            self._check_texts()
            if config.validation_latents is not None:
                self.held_out = LatentStore.open(config.validation_latents, vae=self.vae)
                if isinstance(self.texts, StoredTexts):
                    _check_same_texts(self.held_out, stored)
            return
        clips = open_clips(config.data, "train")
        held_out = open_clips(config.data, "held-out") if config.validation_clips else None
        prompts = [] if held_out is None else _first_captions(held_out, config)
        self.videos = ValidationVideos(config, prompts)
        folder = Path(config.output) / "cache"
        sizes = [bucket.size for bucket in config.buckets] or [_size_of(config)]
        # References that are never given needn't be encoded.
        scale = config.conditions.reference_scale if config.conditions.references else None
        self.vae.to(processes.device)
        with processes.main_process_first():  # the others find the files
            if config.source == "on-the-fly":
                self.source = OnTheFly(self.vae, clips, sizes, config.data.frame_rate, scale)
            else:
                self.source = EncodedClips(
                    self.vae,
                    clips,
                    sizes,
                    config.cached_clips,
                    folder,
                    config.data.frame_rate,
                    lambda size: views_of(config, size, self.ratios),
                    scale,
                )
            if held_out is not None:
                self.held_out = EncodedClips(
                    self.vae,
                    held_out,
                    sizes[:1],
                    config.validation_clips,
                    folder,
                    config.data.frame_rate,
                    reference_scale=scale,
                )
        if config.source != "on-the-fly":
            self.vae.to("cpu")  # needed again for validation only

    def _check_texts(self) -> None:
        """Have the features of what will be asked for, now and not after hours of training."""
        if self.texts is not None:
            self.texts.of([*self.videos.texts, ""] if self.videos.prompts else [""])
            if self.distillation is not None:
                self.texts.of([self.distillation.config.negative_prompt])

    def batch(self, step: int, rank: int, world_size: int) -> dict[str, Any]:
        """This rank's latents and texts of a step; see `TransformerTrainingModule.forward`."""
        picks = self.plan.share(step, rank, world_size)
        levels = self._levels(step, [self.plan.tokens[pick.bucket] for pick in self.plan.picks(step)])
        rows = [pick.index for pick in picks]
        samples = [self.source[pick.number] for pick in picks]
        captions = [self._caption(step, pick) for pick in picks]
        groups = self.collator.groups(
            picks,
            samples,
            self.plan.clip(step),
            self.plan.gives_references(step),
            own=self.plan.gives_own(step),
        )
        return {
            "groups": groups,
            **{name: values[rows] for name, values in levels.items()},
            "weight": torch.tensor([sample.weight for sample in samples]),
            "bucket": torch.tensor([pick.bucket for pick in picks]),
            "keep": self.plan.keep(step),
            "step": step,
            **self._text(captions, samples),
        }

    def describe_sample(self, step: int, rank: int, world_size: int, index: int) -> str:
        """What a user finds a sample by."""
        return self.source.describe(self.plan.share(step, rank, world_size)[index].number)

    def work(self, step: int) -> Work:
        """Samples, tokens and operations of a step, for throughput."""
        picks = self.plan.picks(step)
        keep = self.plan.keep(step)
        counts = [min(keep or count, count) for count in (self.plan.tokens[pick.bucket] for pick in picks)]
        config = self.module.transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        flops = sum(
            transformer_flops(
                batch=1,
                tokens=count,
                text_tokens=self.config.text_length,
                layers=config.num_layers,
                width=width,
                cross_width=config.cross_attention_dim,
                in_channels=config.in_channels,
                out_channels=config.out_channels or config.in_channels,
                caption_channels=config.caption_channels,
            )
            for count in counts
        )
        # With an adapter the backward pass has no gradients of the base's weights to compute.
        passes = 3.0 if self.config.adapter is None else 2.0
        if self.distillation is not None:
            passes += self.distillation.forward_passes(max(counts))
        return Work(len(picks), sum(counts), flops * passes / 3)

    @property
    def validation_figures(self) -> tuple[str, ...]:
        """Names of the figures that `validate` gives."""
        return () if self.held_out is None else ("held_out_loss",)

    @torch.no_grad()
    def validate(self, folder: Path) -> dict[str, float]:
        """Loss on held-out clips at fixed draws; videos of the validation's prompts, and a sheet of them."""
        figures = {} if self.held_out is None else {"held_out_loss": self._held_out_loss()}
        # Those of the finished model are made once, for its card and its last validation.
        videos = self._finished if self._finished is not None else self._make_videos()
        self.videos.write(videos, folder)
        return figures

    def finish(self) -> None:
        """Make the samples of a finished LoRA's card."""
        if self.config.adapter is not None:
            self._finished = self._make_videos()

    def export(self, folder: Path) -> None:
        """Save the pipeline; of a LoRA its files, for Diffusers and ComfyUI, with samples and facts for its card.

        After training on latents with texts the pipeline has no text encoder.
        """
        dtype = getattr(torch, self.config.export_dtype)
        if self.config.adapter is not None:
            remarks = {"trigger": self.trigger} if self.trigger else {}
            write_trained_lora(self.module.transformer, folder, dtype, remarks)
            if self._finished:
                (folder / "samples").mkdir()
                self.videos.write_files(self._finished, folder / "samples")
            write_card_facts(
                folder, self.config, self.plan.sizes, self.videos.prompts, self.repository, self.trigger
            )
            return
        parts = {
            name: copy.deepcopy(part).to(dtype) if isinstance(part, torch.nn.Module) else part
            for name, part in self.pipeline().components.items()
        }
        LTXPipeline(**parts).save_pretrained(folder)

    def pipeline(self) -> LTXPipeline:
        """The models under training as a pipeline."""
        encoder = self.module.text_encoder
        if encoder is None and isinstance(self.texts, FrozenTexts):
            encoder = self.texts.text_encoder
        return LTXPipeline(
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=encoder,
            tokenizer=self.tokenizer,
            transformer=self.module.transformer,
        )

    def _make_videos(self) -> list[np.ndarray]:
        home = self.vae.device
        parts = {
            "scheduler": copy.deepcopy(self.scheduler),
            "vae": self.vae.to(self.module.transformer.device),
            "text_encoder": self.module.text_encoder,
            "tokenizer": None if self.module.text_encoder is None else self.tokenizer,
            "transformer": self.module.transformer,
        }
        try:
            return self.videos.make(parts, self.texts)
        finally:
            self.vae.to(home)

    def _held_out_loss(self) -> float:
        """Mean loss of held-out samples, drawn alike each time, some at a time."""
        device = self.module.transformer.device
        plan = TransformerPlan(self.held_out, self.config.model_copy(update={"buckets": ()}), self.ratios)
        collator = Collator(self.held_out, plan, self.config, self.ratios)
        total = count = 0.0
        rng = np.random.default_rng(_VALIDATION_SEED)
        for bucket, size in enumerate(plan.sizes):
            numbers = self.held_out.buckets[size][: self.config.validation_clips]
            levels = self._levels(_VALIDATION_STEP + bucket, [plan.tokens[bucket]] * len(numbers))["sigma"]
            for start in range(0, len(numbers), self.config.batch_size):
                chosen = numbers[start : start + self.config.batch_size]
                picks = [
                    Pick(number, bucket, index, _VALIDATION_STEP + int(count) + index)
                    for index, number in enumerate(chosen)
                ]
                samples = [self.held_out[number] for number in chosen]
                captions = [self.held_out.caption(number, rng) for number in chosen]
                conditions = self.config.conditions
                groups = collator.groups(
                    picks,
                    samples,
                    None,
                    conditions.references > 0,
                    own=conditions.own > 0,
                    drawn_regions=False,
                )
                batch = {
                    "groups": tuple(_to(group, device) for group in groups),
                    "sigma": levels[start : start + len(chosen)],
                    "weight": torch.ones(len(chosen)),
                    "bucket": torch.zeros(len(chosen)),
                    "keep": None,
                    "step": _VALIDATION_STEP,
                    **self._text([self.config.caption_prefix + text for text in captions], samples),
                }
                total += float(self.module(_to(batch, device))["loss"].sum())
                count += len(chosen)
        return total / max(1, count)

    def _levels(self, step: int, tokens: Sequence[int]) -> dict[str, torch.Tensor]:
        """Noise levels (B,) of the samples of a step, by their numbers of tokens; see `Distillation.draw`."""
        if self.distillation is None:
            return {"sigma": self.noise_levels(step, tokens)}
        sigma, start = self.distillation.draw(self.config.seed, step, len(tokens))
        return {"sigma": sigma, "start": start}

    def _caption(self, step: int, pick: Pick) -> str:
        """The wording of a sample at a step: with the prefix, or empty where it is dropped."""
        rng = self.plan.wording(step, pick)
        if rng.random() < self.config.caption_dropout:
            return ""
        return self.config.caption_prefix + self.source.caption(pick.number, rng)

    def _text(self, captions: Sequence[str], samples: Sequence[LatentSample]) -> dict[str, torch.Tensor]:
        """What a batch brings of its texts: their numbers for an encoder that is trained along, else features."""
        if self.texts is None:
            text = self.tokenizer(
                list(captions),
                padding=True,
                truncation=True,
                max_length=self.config.text_length,
                return_tensors="pt",
            )
            return {"input_ids": text.input_ids, "text_mask": text.attention_mask}
        if isinstance(self.texts, StoredTexts):
            features = [
                self.texts.of([""])[0] if caption == "" else sample.text_embeds[sample.text_mask]
                for caption, sample in zip(captions, samples, strict=True)
            ]
        else:
            features = self.texts.of(captions)
        text = padded(features)
        batch = {"text_embeds": text.embeds.float(), "text_mask": text.mask}
        if self.distillation is not None:
            negative = padded(self.texts.of([self.distillation.config.negative_prompt]))
            batch |= {"negative_embeds": negative.embeds.float(), "negative_mask": negative.mask}
        return batch


def _first_captions(clips: ClipReader, config: TransformerTrainConfig) -> list[str]:
    """Captions of the first clips of a set, with the prefix that is trained on."""
    rng = np.random.default_rng(_VALIDATION_SEED)
    return [config.caption_prefix + clips.caption(number, rng) for number in range(config.validation_prompts)]


def _to(batch: Any, device: torch.device) -> Any:
    """Tensors of a batch on a device."""
    from accelerate.utils import send_to_device

    return send_to_device(batch, device)


def _size_of(config: TransformerTrainConfig) -> VideoSize:
    return VideoSize(config.data.num_frames, config.data.height, config.data.width)


def _check_latents(stored: LatentStore, config: TransformerTrainConfig, ratios: CompressionRatios) -> None:
    """Raise `InputError` for what latents alone don't allow."""
    if config.conditions.region:
        raise InputError(
            "config key 'conditions.region': gray boxes are drawn anew and encoded, which takes pixels",
            got="source: latents",
            fix="precompute samples with masks of their own, or take source: on-the-fly",
        )
    sizes = [bucket.size for bucket in config.buckets]
    check_sizes(stored, sizes)
    for size in sizes or stored.buckets:
        stored.check_pieces(
            [view for view in views_of(config, size, ratios) if isinstance(view, Piece)], size
        )
    if config.caption_prefix and stored.has_text and not config.trains_text_encoder:
        raise InputError(
            "config key 'caption_prefix': the texts of these latents are encoded already",
            fix="give --caption-prefix to `ltx-diffusers precompute`",
        )


def _check_same_texts(held_out: LatentStore, stored: LatentStore) -> None:
    """Raise `InputError` if held-out latents come without texts, or with those of another encoder."""
    theirs, ours = (store.settings["text_encoder"] or {} for store in (held_out, stored))
    if theirs.get("fingerprint") != ours["fingerprint"]:
        raise InputError(
            "config key 'validation_latents': its texts aren't encoded as those of the latents are",
            got=theirs.get("fingerprint", "no texts"),
            expected=ours["fingerprint"],
            fix="precompute both with the same text encoder and --text-length",
        )


def _check_clips(config: TransformerTrainConfig) -> None:
    """Raise `InputError` for a clip that can't be given at all."""
    lengths = [bucket.num_frames for bucket in config.buckets] or [config.data.num_frames]
    for clip in config.conditions.clips if config.latents is None else ():
        if all(clip.begin(length) is None for length in lengths):
            begin = clip.frame if clip.frame > 0 else f"{clip.frame} from the end"
            raise InputError(
                "config key 'conditions.clips': a clip reaches beyond the video, or begins inside a latent",
                got=f"{clip.frames} frames from {begin}",
                expected=f"within frames 1 to {max(lengths) - 1}, and from a multiple of 8 if more than one",
            )
