"""One training pass of the transformer: from latents to losses, for samples of one or of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..denoising.state import at_noise_level, from_noise, token_levels, velocity_target
from ..denoising.velocity import TextFeatures
from ..errors import InputError
from ..functional.coordinates import Placement
from ..functional.draws import Draws
from ..geometry import CompressionRatios
from ..models.transformers.transformer_ltx import LTXTransformer3DModel
from ..objectives import objectives
from ..objectives.distillation import TrajectoryPass
from ..objectives.flow_matching import FlowPass
from .conditioning import GivenClip, GivenReference, GivenRegion, with_drawn_conditions
from .distillation import Distillation
from .loss_bins import noise_level_bins
from .loss_weighting import build_loss_weighting
from .sharding import calls_behind, is_in_parts
from .token_dropping import kept_positions
from .training_tokens import TrainingTokens
from .transformer_config import TransformerTrainConfig


class TransformerTrainingModule(torch.nn.Module):
    """Transformer, objective and, if it is trained along, text encoder: one call is one training pass.

    Args:
        transformer: The model to train, or with the adapter to train.
        text_encoder: Trained along; None if batches bring features of their texts.
        config: Settings of the run.
        ratios: Compression of the VAE, for coordinates.
        distillation: The teacher and what belongs to it, for an objective that has one.

    Raises:
        InputError: If the config's objective isn't one of a transformer, or lacks the teacher that it needs, or its
            weighting can't be built.
    """

    def __init__(
        self,
        transformer: LTXTransformer3DModel,
        text_encoder: torch.nn.Module | None,
        config: TransformerTrainConfig,
        ratios: CompressionRatios,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder
        self.config = config
        self.ratios = ratios
        self.weighting = build_loss_weighting(config.weighting.name, **config.weighting.options)
        self.objective = objectives.get(config.objective)()
        self.distillation = distillation
        if self.objective.inputs not in (FlowPass, TrajectoryPass):
            raise InputError(f"the objective {config.objective!r} is not one of a transformer")
        if (self.objective.inputs is TrajectoryPass) != (distillation is not None):
            raise InputError(
                "an objective with a teacher and the config's section 'distillation' go together",
                got=f"objective: {config.objective}, {'no' if distillation is None else 'a'} section",
                fix="objective: trajectory-distillation with distillation: {steps: 8}, or neither",
            )

    def forward(self, batch: dict[str, Any], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Losses (B,) of a batch.

        Args:
            batch: `groups`, one for each size of samples (see `noised_tokens`), and for all samples in their order:
                noise level `sigma` (B,), loss weight `weight` (B,), number of the size `bucket` (B,), the text as
                `input_ids` or `text_embeds` with `text_mask`; `keep`, how many tokens of its video each sample keeps,
                or None for all; `step`. With a teacher also its `negative_embeds` (1, T, D) and `negative_mask`
                (1, T), and `start` (B,), the noise level that the student comes down to `sigma` from; `sigma` if
                there is none.
            generator: Not used: every draw follows from the run's seed and the sample's number.

        Raises:
            InputError: If the weights of a student are cut up among processes that call it differently often.
        """
        if self.distillation is not None and self.distillation.calls_vary and is_in_parts(self.transformer):
            raise InputError(
                "this distillation can't be sharded: its processes call the student differently often",
                fix="set distillation.own_inputs=0 without an adapter, or launch with configs/accelerate/ddp.yaml",
            )
        text = self._text(batch)
        start = batch.get("start", batch["sigma"])
        tokens = _by_length([self.noised_tokens(group, start, batch) for group in batch["groups"]])
        behind = calls_behind(self.transformer, len(tokens))
        losses = {}
        for together in tokens:
            losses |= dict(
                zip(together.rows, self.objective(self._record(together, text, batch)), strict=True)
            )
        error = torch.stack([losses[row] for row in range(len(batch["sigma"]))])
        for _ in range(behind):
            # Another process has samples of more lengths, and weights in parts are gathered by all or none.
            error = error + 0 * self.predict(tokens[0], text).float().sum()
        weight = self.weighting(batch["sigma"]) * batch["weight"]
        return {
            "loss": error * weight,
            "bin/timestep": noise_level_bins(batch["sigma"]),
            "bin/bucket": batch["bucket"],
        }

    def noised_tokens(self, group: dict[str, Any], sigma: Tensor, batch: dict[str, Any]) -> TrainingTokens:
        """The tokens of samples of one size: noise, conditions and noise levels as in sampling, some left out.

        Args:
            group: Posteriors `mean` (b, C, F, H, W) and `deviation`, `frame_rate` (b,), the samples' `numbers` in the
                run and their `rows` in the batch. In a step with a clip that is given, `clip_mean`, `clip_deviation`
                and its first frame `clip_frame`; where regions are given, `region_mean`, `region_deviation` and
                `region_keep` (b, F, H, W); in place of these, with conditions of the samples' own, `own`, each with
                `frame`, `mean` and `deviation`; with masks of the samples' own `made_anew` (b, F, H, W); with
                references `references`, each (b, C, f, h, w), and `reference_scale`.
            sigma: Noise level of all samples of the batch (B,).
            batch: The batch, for `step` and `keep`.
        """
        device = group["mean"].device
        draws = Draws.of_samples(self.config.seed, batch["step"], group["numbers"], device)
        latents = _drawn(group, "", draws)
        placement = Placement(
            group["frame_rate"], bool(self.transformer.config.causal_temporal_positioning), self.ratios
        )
        state = from_noise(draws.normal(latents.shape[1:]), placement, clean=latents)
        clip = region = None
        if "clip_mean" in group:
            clip = GivenClip(_drawn(group, "clip_", draws), group["clip_frame"])
        if "region_mean" in group:
            region = GivenRegion(_drawn(group, "region_", draws), group["region_keep"])
        own = None
        if "own" in group:
            own = [GivenClip(_drawn(each, "", draws), each["frame"]) for each in group["own"]]
        references = [
            GivenReference(latents, group["reference_scale"]) for latents in group.get("references", ())
        ]
        state = with_drawn_conditions(
            state,
            latents,
            self.config.conditions,
            draws,
            clip,
            region,
            own=own,
            made_anew=group.get("made_anew"),
            references=references,
        )
        rows = list(group["rows"])
        noised = at_noise_level(state, sigma[rows], draws.samples)
        # Extra tokens have no noise of their own before; nothing is learnt on them.
        tokens = TrainingTokens(
            tokens=noised.tokens,
            levels=token_levels(state, sigma[rows]),
            coords=state.coords,
            target=velocity_target(state),
            counts=state.strength == 0,
            rows=tuple(rows),
        )
        keep = batch["keep"]
        if keep is None or keep >= state.num_target:
            return tokens
        return tokens.at(kept_positions(state.num_target, state.num_extra, keep, draws))

    def _record(
        self, tokens: TrainingTokens, text: TextFeatures, batch: dict[str, Any]
    ) -> FlowPass | TrajectoryPass:
        if self.distillation is None:
            return FlowPass(self.predict(tokens, text).float(), tokens.target, tokens.counts)
        return self.distillation.record(
            self.transformer,
            self._predict_by,
            tokens,
            text,
            TextFeatures(batch["negative_embeds"], batch["negative_mask"]),
            batch["sigma"],
            batch.get("start", batch["sigma"]),
        )

    def predict(self, tokens: TrainingTokens, text: TextFeatures) -> Tensor:
        """Predicted velocity (b, L, C) of some of the batch's samples, by texts of the whole batch."""
        return self._predict_by(self.transformer, tokens, text)

    def _predict_by(
        self, transformer: LTXTransformer3DModel, tokens: TrainingTokens, text: TextFeatures
    ) -> Tensor:
        rows = list(tokens.rows)
        inputs = tokens.tokens, text.embeds[rows]
        if self.config.adapter is not None:  # weights that are trained are float32, as inputs are
            inputs = tuple(each.to(getattr(torch, self.config.base_dtype)) for each in inputs)
        return transformer(
            inputs[0],
            encoder_hidden_states=inputs[1],
            timestep=tokens.levels * transformer.config.timestep_scale_multiplier,
            encoder_attention_mask=text.mask[rows],
            video_coords=tokens.coords,
            return_dict=False,
        )[0]

    def _text(self, batch: dict[str, Any]) -> TextFeatures:
        mask = batch["text_mask"]
        if self.text_encoder is None:
            return TextFeatures(batch["text_embeds"], mask)
        return TextFeatures(self.text_encoder(input_ids=batch["input_ids"], attention_mask=mask)[0], mask)


def _drawn(group: dict[str, Any], prefix: str, draws: Draws) -> Tensor:
    """Latents drawn from a posterior."""
    mean = group[f"{prefix}mean"]
    return mean + group[f"{prefix}deviation"] * draws.normal(mean.shape[1:])


def _by_length(tokens: Sequence[TrainingTokens]) -> list[TrainingTokens]:
    """Samples with equally many tokens put together: each is one call of the transformer."""
    lengths: dict[int, list[TrainingTokens]] = {}
    for some in tokens:
        lengths.setdefault(some.tokens.shape[1], []).append(some)
    return [_joined(group) for group in lengths.values()]


def _joined(group: Sequence[TrainingTokens]) -> TrainingTokens:
    if len(group) == 1:
        return group[0]
    names = ("tokens", "levels", "coords", "target", "counts")
    joined = {name: torch.cat([getattr(each, name) for each in group]) for name in names}
    return TrainingTokens(**joined, rows=tuple(row for each in group for row in each.rows))
