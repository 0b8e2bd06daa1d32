"""The LTX-Video transformer (paper section 2.2), with the state-dict keys of Diffusers' class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection
from diffusers.models.modeling_outputs import Transformer2DModelOutput

# `ModelMixin` must be a name of this module: Diffusers looks it up here when it loads a saved pipeline.
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormSingle
from diffusers.utils import apply_lora_scale
from torch import nn

from ...errors import InputError
from ...functional.coordinates import scaled_coordinates, video_coordinates
from ...functional.rope import rotary_embedding, rotary_turns
from ...geometry import CompressionRatios, VideoSize
from ..publishing import PublishesToHub
from ..recorded import ReadsRecordedSettings
from ..single_file import SingleFileMixin
from .block_ltx import LTXTransformerBlock, TextMemory, modulate
from .layers import Linear, Rotary
from .parallel import RunsOnManyProcesses
from .perturbation import Perturbation
from .sharding import CONTEXT_PARALLEL_PLAN, Shard, filled_up, share_of_runs, share_out, without_filling
from .step_cache import StepCache, offloading_groups, weights_state

MASKED_BIAS = -10000.0
"""Added to the attention scores of masked text tokens, as the released models were trained."""


class LTXTransformer3DModel(
    RunsOnManyProcesses,
    PublishesToHub,
    ReadsRecordedSettings,
    ModelMixin,
    ConfigMixin,
    AttentionMixin,
    SingleFileMixin,
    PeftAdapterMixin,
    CacheMixin,
):
    """Predicts the velocity of noised latents from text, noise level, time and place.

    State-dict keys and the first fifteen settings are those of Diffusers' `LTXVideoTransformer3DModel`: each
    class loads what the other saved. Timesteps are per sample or per token, so that conditioning tokens can
    be cleaner than the rest.

    Args:
        in_channels: Channels of a token that goes in.
        out_channels: Channels of a token that comes out; None for `in_channels`.
        patch_size: Latent rows and columns of a token; 1 in every release.
        patch_size_t: Latent frames of a token; 1 in every release.
        num_attention_heads: Heads.
        attention_head_dim: Width of a head.
        cross_attention_dim: Width of the projected text features, that is heads times head width.
        num_layers: Blocks.
        activation_fn: Activation of the feed-forward, in Diffusers' names.
        qk_norm: Norm of queries and keys.
        norm_elementwise_affine: Whether the norms of the blocks have weights.
        norm_eps: Epsilon of these norms.
        caption_channels: Channels of the text encoder's features.
        attention_bias: Whether query, key and value projections have a bias.
        attention_out_bias: Whether output projections have one.
        causal_temporal_positioning: Whether the first latent frame stands for one frame only in computed
            coordinates: False for releases 0.9.0 and 0.9.1, True for 0.9.5 and later. None, as in configs of
            Diffusers' class: not stated; pipelines then go by the VAE, and this class doesn't apply the rule.
            Given coordinates (`video_coords`) are taken as they are.
        timestep_scale_multiplier: What noise levels in [0, 1] are multiplied with to get timesteps. A record
            for callers: `forward` takes timesteps in [0, 1000].
        temporal_compression_ratio: Frames per latent frame, for computed coordinates.
        spatial_compression_ratio: Rows and columns of pixels per latent, for computed coordinates.
        default_height: Height in pixels that pipelines generate unless told otherwise; None leaves it to them.
        default_width: The same for the width in pixels.
        default_num_frames: The same for the number of frames, 8k + 1.
        default_frame_rate: The same for the frames per second.
        regions_hidden: Whether the model was trained on videos in which the region to be made anew is gray
            (`RegionOfVideo.hide`). A record for pipelines.

    Raises:
        InputError: If the text width doesn't fit the heads, or a setting is of an unknown kind.
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ("norm",)
    _no_split_modules = ("LTXTransformerBlock",)
    _repeated_blocks = ("LTXTransformerBlock",)
    _cp_plan = CONTEXT_PARALLEL_PLAN

    @register_to_config
    def __init__(
        self,
        in_channels: int = 128,
        out_channels: int | None = 128,
        patch_size: int = 1,
        patch_size_t: int = 1,
        num_attention_heads: int = 32,
        attention_head_dim: int = 64,
        cross_attention_dim: int = 2048,
        num_layers: int = 28,
        activation_fn: str = "gelu-approximate",
        qk_norm: str = "rms_norm_across_heads",
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-6,
        caption_channels: int = 4096,
        attention_bias: bool = True,
        attention_out_bias: bool = True,
        causal_temporal_positioning: bool | None = None,
        timestep_scale_multiplier: float = 1000.0,
        temporal_compression_ratio: int = 8,
        spatial_compression_ratio: int = 32,
        default_height: int | None = None,
        default_width: int | None = None,
        default_num_frames: int | None = None,
        default_frame_rate: float | None = None,
        regions_hidden: bool = False,
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        if cross_attention_dim != dim:
            raise InputError(
                "cross_attention_dim must be the width of the projected text features",
                got=cross_attention_dim,
                expected=f"{num_attention_heads} heads x {attention_head_dim} = {dim}",
            )

        self.inner_dim = dim
        self.proj_in = Linear(in_channels, dim)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.time_embed = AdaLayerNormSingle(dim, use_additional_conditions=False)
        self.caption_projection = PixArtAlphaTextProjection(in_features=caption_channels, hidden_size=dim)
        self.transformer_blocks = nn.ModuleList(
            LTXTransformerBlock(
                dim=dim,
                num_attention_heads=num_attention_heads,
                attention_head_dim=attention_head_dim,
                cross_attention_dim=cross_attention_dim,
                qk_norm=qk_norm,
                activation_fn=activation_fn,
                attention_bias=attention_bias,
                attention_out_bias=attention_out_bias,
                eps=norm_eps,
                elementwise_affine=norm_elementwise_affine,
            )
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.proj_out = Linear(dim, out_channels or in_channels)

        self.shard = Shard()
        self.gradient_checkpointing = False

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        rope_interpolation_scale: Sequence[float | torch.Tensor] | torch.Tensor | None = None,
        video_coords: torch.Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        frame_rate: float | torch.Tensor | None = None,
        perturbation: Perturbation | None = None,
        perturbed_rows: int = 0,
        step_cache: StepCache | None = None,
        timestep_runs: Sequence[int] | None = None,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict the velocity (noise minus clean latents) of each token.

        Where the tokens are is told in one of three ways: `video_coords`, which wins; or the token grid
        (`num_frames`, `height`, `width`) with `frame_rate`; or the grid with `rope_interpolation_scale`, the
        call of Diffusers' pipelines. The last two follow `causal_temporal_positioning`, which Diffusers'
        model can't; in the last, frames per latent frame are taken to be `temporal_compression_ratio`.

        Args:
            hidden_states: Tokens (B, L, in_channels).
            encoder_hidden_states: Text features (B, S, caption_channels); or those of several texts for the same
                tokens, (n B, S, caption_channels), all rows of the first text first. What the texts have in common
                is then computed once.
            timestep: Noise level times 1000, in [0, 1000]: one per sample, (B,) or (B, 1), or one per token
                (B, L).
            encoder_attention_mask: Which text tokens count, in rows as the text: (B, S), 1 or True for those that
                do; or an additive bias (B, 1, S). None if all do, which saves work.
            num_frames: Tokens in time (latent frames).
            height: Tokens in height (latent rows).
            width: Tokens in width (latent columns).
            rope_interpolation_scale: Seconds per latent frame (temporal ratio / frame rate), rows and columns
                of pixels per latent.
            video_coords: First corner of each token (B or 1, 3, L): seconds, y and x in pixels.
            attention_kwargs: {"scale": s} scales LoRA layers.
            return_dict: Whether to return an output object or a tuple.
            frame_rate: Frames per second, one number or one per sample (B,).
            perturbation: What to perturb, for spatio-temporal guidance.
            perturbed_rows: How many rows of the batch, its last ones, are perturbed.
            step_cache: Keeps what is the same at every step of a loop (RoPE, projected text, its keys and values),
                known by the identity of `video_coords` and `encoder_hidden_states`. Not used with gradients.
            timestep_runs: Lengths of the K runs of tokens that have one timestep each; `timestep` is then (B, K).

        Returns:
            Velocities (n B, L, out_channels), as `.sample` or in a tuple.

        Raises:
            InputError: If a shape doesn't fit the others, or it isn't told where the tokens are.
        """
        copies = self._check_inputs(hidden_states, encoder_hidden_states)
        self._check_perturbation(perturbation, perturbed_rows, encoder_hidden_states.shape[0])
        batch_size, num_tokens, _ = hidden_states.shape
        if self._parallel_config is not None:
            share_out(self._parallel_config, num_tokens, self.config.num_attention_heads)
        if video_coords is None:
            size = VideoSize(num_frames, height, width)
            video_coords = self._coordinates(
                size, frame_rate, rope_interpolation_scale, batch_size, hidden_states.device
            )
        if video_coords.shape not in ((batch_size, 3, num_tokens), (1, 3, num_tokens)):
            raise InputError(
                "the coordinates don't fit the tokens",
                got=tuple(video_coords.shape),
                expected=f"({batch_size}, 3, {num_tokens})",
            )

        cache = None if torch.is_grad_enabled() else step_cache
        rotary = self._rotary(video_coords, cache)
        text_bias = self._text_bias(encoder_attention_mask, encoder_hidden_states)
        modulation, embedded_timestep, runs = self._embed_timesteps(timestep, hidden_states, timestep_runs)
        text, memories = self._text(encoder_hidden_states, cache)
        hidden_states = self.proj_in(self.shard(hidden_states))

        shared = copies > 1 and self._shares_first_block(perturbation)
        if copies > 1:
            embedded_timestep, modulation_of_all = (
                x.repeat(copies, 1, 1) for x in (embedded_timestep, modulation)
            )
            rotary_of_all = _repeated(rotary, copies)
            if not shared:
                hidden_states = hidden_states.repeat(copies, 1, 1)
                modulation, rotary = modulation_of_all, rotary_of_all

        for index, block in enumerate(self.transformer_blocks):
            inputs = (hidden_states, text, modulation, rotary, text_bias)
            if perturbed_rows and index in perturbation.blocks:
                inputs += ((perturbation.mode, perturbed_rows),)
            options: dict[str, Any] = {}  # none of them with gradients
            if memories is not None:
                options |= memories[index].arguments(block, text)
            if runs is not None:
                options["runs"] = runs
            if shared and index == 0:
                options["copies"] = copies
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(block, *inputs)
            else:
                hidden_states = block(*inputs, **options)
            if shared and index == 0:
                modulation, rotary = modulation_of_all, rotary_of_all

        shift, scale = (self.scale_shift_table + embedded_timestep[:, :, None]).unbind(dim=2)
        output = modulate(self.norm_out(hidden_states), shift, scale, runs)
        if self._parallel_config is None:
            output = self.proj_out(output)
        else:
            output = self.proj_out(filled_up(output, num_tokens, self._parallel_config))
            output = without_filling(output, num_tokens, self._parallel_config)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    @property
    def _turns(self) -> bool:
        """Whether RoPE is one product of complex numbers: not with gradients, under compilers, or for others' code."""
        return (
            not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and self.device.type in ("cpu", "cuda")
            and not self._has_compiled_blocks
            and all(block.attn1.is_plain for block in self.transformer_blocks)
        )

    @property
    def _has_compiled_blocks(self) -> bool:
        return any(block._compiled_call_impl is not None for block in self.transformer_blocks)

    def _rotary(self, video_coords: torch.Tensor, cache: StepCache | None) -> Rotary:
        """RoPE of all tokens; this process's share of it under context parallelism."""
        turns = self._turns
        if cache is not None:
            return cache.get("rotary", (video_coords,), lambda: self._rotary(video_coords, None), turns)
        coords = video_coords.float()
        if turns:
            return self.shard(rotary_turns(coords, self.inner_dim))
        return tuple(self.shard(x) for x in rotary_embedding(coords, self.inner_dim))

    def _text(
        self, features: torch.Tensor, cache: StepCache | None
    ) -> tuple[torch.Tensor, list[TextMemory] | None]:
        """Projected text (B, S, C), and where each block keeps what it makes of it.

        Nothing is kept where layers of their own fetch the next layer's weights ahead: those of a layer that is left
        out would be fetched at each step and never leave.
        """
        keys = self.transformer_blocks[0].attn2.to_k
        if cache is None or any(group.stream is not None for group in offloading_groups(keys)):
            return self.caption_projection(features), None

        def make() -> tuple[torch.Tensor, list[TextMemory]]:
            memories = [TextMemory() for _ in self.transformer_blocks]
            return self.caption_projection(features), memories

        layers = [self.caption_projection]
        for block in self.transformer_blocks:
            named = block.attn2.named_children()
            layers += [layer for name, layer in named if name not in ("norm_q", "to_q", "to_out")]
        return cache.get("text", (features,), make, weights_state(layers))

    def _shares_first_block(self, perturbation: Perturbation | None) -> bool:
        """Whether the first block may take rows that several texts share: not where something else acts on it."""
        block = self.transformer_blocks[0]
        return (
            (perturbation is None or 0 not in perturbation.blocks)
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and block._compiled_call_impl is None
            and not hasattr(block, "_diffusers_hook")
        )

    def _check_inputs(self, hidden_states: torch.Tensor, text: torch.Tensor) -> int:
        """How many texts there are for each row. Shapes only, so that it costs no synchronisation and compiles."""
        if hidden_states.ndim != 3 or hidden_states.shape[-1] != self.config.in_channels:
            raise InputError(
                "hidden_states must be tokens (B, L, in_channels)",
                got=tuple(hidden_states.shape),
                expected=f"{self.config.in_channels} channels",
            )
        if (
            text.ndim != 3
            or text.shape[0] < hidden_states.shape[0]
            or text.shape[0] % hidden_states.shape[0]
            or text.shape[-1] != self.config.caption_channels
        ):
            raise InputError(
                "encoder_hidden_states must be text features (B, S, caption_channels)",
                got=tuple(text.shape),
                expected=f"({hidden_states.shape[0]}, S, {self.config.caption_channels})",
            )
        return text.shape[0] // hidden_states.shape[0]

    def _check_perturbation(self, perturbation: Perturbation | None, rows: int, batch_size: int) -> None:
        if not 0 <= rows <= batch_size or (rows > 0) != (perturbation is not None):
            raise InputError(
                "a perturbation and the number of rows that it acts on go together",
                got=f"{perturbation} for {rows} of {batch_size} rows",
            )
        if perturbation is not None:
            perturbation.check_depth(len(self.transformer_blocks))

    def _coordinates(
        self,
        size: VideoSize,
        frame_rate: float | torch.Tensor | None,
        scale: Sequence[float | torch.Tensor] | torch.Tensor | None,
        batch_size: int,
        device: torch.device,
    ) -> torch.Tensor:
        """Coordinates (B, 3, L) of a whole grid of tokens."""
        if None in size:
            raise InputError(
                "the model must be told where the tokens are",
                got=f"num_frames, height, width = {tuple(size)}",
                fix="pass video_coords, or num_frames, height, width and frame_rate",
            )
        if (frame_rate is None) == (scale is None):
            raise InputError(
                "computed coordinates need either frame_rate or rope_interpolation_scale",
                got="neither" if scale is None else "both",
                fix="pass frame_rate",
            )
        config = self.config
        if config.causal_temporal_positioning and config.patch_size_t != 1:
            raise InputError(
                "the causal rule of the first frame is defined for tokens of one latent frame",
                got=f"patch_size_t = {config.patch_size_t}",
                fix="pass video_coords",
            )
        if frame_rate is not None:
            ratios = CompressionRatios(
                config.temporal_compression_ratio * config.patch_size_t,
                config.spatial_compression_ratio * config.patch_size,
                config.spatial_compression_ratio * config.patch_size,
            )
            return video_coordinates(
                size,
                batch_size=batch_size,
                frame_rate=frame_rate,
                ratios=ratios,
                causal=bool(config.causal_temporal_positioning),
                device=device,
            )
        patch = (config.patch_size_t, config.patch_size, config.patch_size)
        return scaled_coordinates(
            size,
            [factor * side for factor, side in zip(scale, patch, strict=True)],
            batch_size=batch_size,
            causal_ratio=config.temporal_compression_ratio if config.causal_temporal_positioning else None,
            device=device,
        )

    def _embed_timesteps(
        self, timestep: torch.Tensor, hidden_states: torch.Tensor, runs: Sequence[int] | None
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...] | None]:
        """Vectors for the blocks (B, T, 6 C) and for the output (B, T, C), with T = 1 or L, or K and its runs."""
        batch_size, num_tokens, _ = hidden_states.shape
        if runs is not None:
            timestep, runs = self._timesteps_of_runs(timestep, tuple(runs), hidden_states)
        elif timestep.shape not in ((batch_size,), (batch_size, 1)):
            if timestep.shape != (batch_size, num_tokens):
                raise InputError(
                    "timesteps must be one per sample or one per token",
                    got=tuple(timestep.shape),
                    expected=f"({batch_size},), ({batch_size}, 1) or ({batch_size}, {num_tokens})",
                )
            timestep = self.shard(timestep)
        vectors = self.time_embed(timestep.flatten(), hidden_dtype=hidden_states.dtype)
        modulation, embedded = (x.unflatten(0, (batch_size, -1)) for x in vectors)
        if runs is not None and self._has_compiled_blocks:  # which would be compiled for each size
            modulation, embedded = (
                torch.cat([x[:, run : run + 1].expand(-1, n, -1) for run, n in enumerate(runs)], dim=1)
                for x in (modulation, embedded)
            )
            return modulation, embedded, None
        return modulation, embedded, runs

    def _timesteps_of_runs(
        self, timestep: torch.Tensor, runs: tuple[int, ...], hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[int, ...] | None]:
        """Timesteps and runs for the blocks; timesteps per token where blocks can't take runs."""
        batch_size, num_tokens, _ = hidden_states.shape
        if timestep.shape != (batch_size, len(runs)) or sum(runs) != num_tokens or min(runs) < 1:
            raise InputError(
                "timestep_runs must be the lengths of runs of tokens, with a timestep for each",
                got=f"runs {runs}, timesteps {tuple(timestep.shape)}",
                expected=f"{num_tokens} tokens in all, timesteps ({batch_size}, {len(runs)})",
            )
        if len(runs) == 1:
            return timestep, None
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            parts = [timestep[:, [run]].expand(-1, length) for run, length in enumerate(runs)]
            return self.shard(torch.cat(parts, dim=1)), None
        if self._parallel_config is not None:
            inside, runs = share_of_runs(runs, self._parallel_config)
            timestep = timestep[:, inside]
        return timestep, runs if len(runs) > 1 else None

    def _text_bias(self, mask: torch.Tensor | None, text: torch.Tensor) -> torch.Tensor | None:
        """A mask (B, S) as an additive bias (B, 1, S); a bias as it is."""
        if mask is None:
            return None
        batch_size, length, _ = text.shape
        if mask.shape == (batch_size, length):
            bias = (1 - mask.to(text.dtype)) * MASKED_BIAS
        elif mask.shape == (batch_size, 1, length) and mask.is_floating_point():
            bias = mask[:, 0].to(text.dtype)
        else:
            raise InputError(
                "encoder_attention_mask must be a mask (B, S) or a floating-point bias (B, 1, S)",
                got=f"{tuple(mask.shape)} {mask.dtype}",
                expected=f"({batch_size}, {length}) or ({batch_size}, 1, {length})",
            )
        return bias[:, None]


def _repeated(rotary: Rotary, copies: int) -> Rotary:
    """RoPE for each copy of its rows; one row stands for all."""
    if isinstance(rotary, tuple):
        return tuple(_repeated(part, copies) for part in rotary)
    return rotary if rotary.shape[0] == 1 else rotary.repeat(copies, 1, 1)
