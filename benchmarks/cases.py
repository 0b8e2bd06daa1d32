"""What `benchmarks.run` measures of models and whole generations: the same random weights and inputs in each target.

A case gives for each target a function that does the work once and returns what came of it. Targets: `ours`;
`diffusers`, as its pipelines call its classes; `official`, the package ltx-video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from diffusers import LTXImageToVideoPipeline as DiffusersImagePipeline
from diffusers import LTXPipeline as DiffusersPipeline
from PIL import Image

from ltx_diffusers import (
    AutoencoderKLLTX,
    LTXFlowMatchScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXTransformer3DModel,
)
from ltx_diffusers.denoising.conditions import FirstFrameCondition
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance
from ltx_diffusers.denoising.state import TokenState, at_noise_level, from_noise
from ltx_diffusers.denoising.velocity import GuidedVelocity, TextFeatures
from ltx_diffusers.functional.coordinates import Placement, video_coordinates
from ltx_diffusers.functional.latents import pack_latents
from ltx_diffusers.schedulers.foreign_configs import from_diffusers

from .floors import generation_flops, transformer_flops
from .sizes import FRAME_RATE, TEXT_LENGTH, WORDS, Size

LEVELS = (1.0, 0.9)
"""Noise levels of the steps that a transformer case takes: what is computed once counts with them."""
GUIDANCE = 3.0


class Models:
    """The models of all targets with the same random weights, made when first asked for.

    Attributes:
        kept: What else cases make once and share.
    """

    def __init__(self, size: Size, dtype: torch.dtype, device: torch.device) -> None:
        self.size, self.dtype, self.device = size, dtype, device
        self._made: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}

    def get(self, part: str, target: str) -> Any:
        """A transformer or VAE of a target."""
        key = f"{part} of {target}"
        if key not in self._made:
            made = getattr(self, f"_{part}_{target}")()
            if hasattr(made, "to"):
                made = made.to(self.device, self.dtype).eval()
            self._made[key] = made
        return self._made[key]

    def _transformer_ours(self) -> Any:
        torch.manual_seed(0)
        return LTXTransformer3DModel(**self.size.transformer, causal_temporal_positioning=False)

    def _transformer_diffusers(self) -> Any:
        model = LTXVideoTransformer3DModel(**self.size.transformer)
        model.load_state_dict(self.get("transformer", "ours").state_dict())
        return model

    def _transformer_official(self) -> Any:
        from ltx_video.models.transformers.transformer3d import Transformer3DModel

        model = Transformer3DModel(
            **{"in_channels": 128, "out_channels": 128, **self.size.transformer},
            attention_bias=True,
            activation_fn="gelu-approximate",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            standardization_norm="rms_norm",
            qk_norm="rms_norm",
            positional_embedding_type="rope",
            positional_embedding_theta=10000.0,
            positional_embedding_max_pos=[20, 2048, 2048],
            timestep_scale_multiplier=1000,
        )
        weights = self.get("transformer", "ours").state_dict()
        renames = {
            "proj_in": "patchify_proj",
            "time_embed": "adaln_single",
            "norm_q": "q_norm",
            "norm_k": "k_norm",
        }
        for old, new in renames.items():
            weights = {key.replace(old, new): value for key, value in weights.items()}
        model.load_state_dict(weights)
        return model

    def _vae_ours(self) -> Any:
        torch.manual_seed(1)
        return AutoencoderKLLTX(**self.size.vae)

    def _vae_diffusers(self) -> Any:
        config = {name: value for name, value in self.size.vae.items() if not name.startswith("default_")}
        model = AutoencoderKLLTXVideo(**config)
        model.load_state_dict(self.get("vae", "ours").state_dict())
        return model


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        make: (models, target) -> a function that does it once.
        targets: Who can do it. A library's name, with a comma the way in which it does it.
        flops: Floating-point operations that it takes at least; None if they aren't counted.
        read: What came of it as a tensor, for the comparison; None if it is one.
        facts: (models, what came of it) -> further figures of the row; None if there are none.
    """

    make: Callable[[Models, str], Callable[[], Any]]
    targets: tuple[str, ...]
    flops: Callable[[Size], float] | None = None
    read: Callable[[Any], torch.Tensor] | None = None
    facts: Callable[[Models, Any], dict[str, Any]] | None = None


def _text(models: Models, name: str) -> TextFeatures:
    source = torch.Generator().manual_seed(len(name))
    embeds = torch.randn(1, TEXT_LENGTH, models.size.transformer["caption_channels"], generator=source)
    mask = (torch.arange(TEXT_LENGTH) < WORDS[name]).long()[None]
    return TextFeatures(embeds.to(models.device, models.dtype), mask.to(models.device))


def _state(models: Models, first_frame: bool) -> TokenState:
    source = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 128, *models.size.latent, generator=source).to(models.device)
    state = from_noise(noise, Placement(FRAME_RATE, causal=False))
    if first_frame:
        state = FirstFrameCondition(torch.ones_like(noise[:, :, :1]) / 2).apply_to(state)
    return at_noise_level(state, 1.0)


def _steps(texts: tuple[str, ...], first_frame: bool = False) -> Callable[[Models, str], Callable]:
    """Steps of a loop under some texts, the tokens held still: mean velocity of the last step."""

    def make(models: Models, target: str) -> Callable[[], torch.Tensor]:
        model, state = models.get("transformer", target), _state(models, first_frame)
        features = {name: _text(models, name) for name in texts}
        scale = GUIDANCE if len(texts) > 1 else 1.0

        @torch.no_grad()
        def ours() -> torch.Tensor:
            velocity = GuidedVelocity(model, features, ClassifierFreeGuidance(scale))
            for level in LEVELS:
                if first_frame:
                    result = velocity.at_level(state, level, 1000.0)
                else:
                    result = velocity(state, torch.full((1,), level * 1000, device=models.device))
            return result

        embeds = torch.cat([features[name].embeds for name in texts])
        mask = torch.cat([features[name].mask for name in texts])
        tokens = torch.cat([state.tokens] * len(texts)).to(models.dtype)
        strength = torch.cat([state.strength] * len(texts))
        common = {"encoder_hidden_states": embeds, "encoder_attention_mask": mask, "return_dict": False}
        size = models.size.latent
        if target == "diffusers":
            common |= {"num_frames": size.frames, "height": size.height, "width": size.width}
            common["rope_interpolation_scale"] = (8 / FRAME_RATE, 32, 32)
        if target == "official":
            coords = video_coordinates(
                size, batch_size=len(texts), frame_rate=FRAME_RATE, causal=False, device=models.device
            )
            common["indices_grid"] = coords

        @torch.no_grad()
        def theirs() -> torch.Tensor:
            for level in LEVELS:
                timestep = torch.full((len(texts),), level, device=models.device)
                if first_frame:
                    timestep = timestep[:, None] * (1 - strength)
                scaled = timestep if target == "official" else timestep * 1000
                predicted = model(tokens, timestep=scaled, **common)[0].float().chunk(len(texts))
            return predicted[0] if len(texts) == 1 else predicted[0] + scale * (predicted[1] - predicted[0])

        return ours if target == "ours" else theirs

    return make


def _generation(from_image: bool) -> Callable[[Models, str], Callable]:
    """A whole generation from features of the text to frames, as a user calls it."""

    def make(models: Models, target: str) -> Callable[[], torch.Tensor]:
        theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05)
        parts = {name: models.get(name, target) for name in ("transformer", "vae")}
        scheduler = LTXFlowMatchScheduler.from_config(from_diffusers(theirs.config))
        kinds = {
            ("ours", False): LTXPipeline,
            ("ours", True): LTXImageToVideoPipeline,
            ("diffusers", False): DiffusersPipeline,
            ("diffusers", True): DiffusersImagePipeline,
        }
        pipeline = kinds[target, from_image](
            scheduler=scheduler if target == "ours" else theirs, text_encoder=None, tokenizer=None, **parts
        )
        pipeline.set_progress_bar_config(disable=True)
        frames, height, width = models.size.video
        texts = {}
        for name, argument in (("positive", "prompt"), ("negative", "negative_prompt")):
            text = _text(models, name)
            texts |= {f"{argument}_embeds": text.embeds, f"{argument}_attention_mask": text.mask}
        size = models.size.latent
        noise = torch.randn(1, 128, *size, generator=torch.Generator().manual_seed(6)).to(models.device)
        given = {"image": Image.new("RGB", (width, height), (90, 120, 60))} if from_image else {}
        if not from_image:
            given["latents"] = pack_latents(noise)

        def work() -> torch.Tensor:
            return torch.from_numpy(
                pipeline(
                    num_frames=frames,
                    height=height,
                    width=width,
                    frame_rate=FRAME_RATE,
                    num_inference_steps=models.size.steps,
                    guidance_scale=GUIDANCE,
                    decode_timestep=0.05,
                    decode_noise_scale=0.0,
                    generator=torch.Generator().manual_seed(7),
                    output_type="np",
                    **texts,
                    **given,
                ).frames
            )

        return work

    return make


ALL, TWO = ("ours", "diffusers", "official"), ("ours", "diffusers")
PAIR = ("negative", "positive")

CASES: dict[str, Case] = {
    "transformer-one": Case(
        _steps(("positive",)), ALL, lambda size: len(LEVELS) * transformer_flops(size, 1)
    ),
    "transformer-cfg": Case(_steps(PAIR), ALL, lambda size: len(LEVELS) * transformer_flops(size, 2)),
    "transformer-cfg-first-frame": Case(
        _steps(PAIR, first_frame=True), ALL, lambda size: len(LEVELS) * transformer_flops(size, 2)
    ),
    "text-to-video": Case(_generation(False), TWO, lambda size: generation_flops(size, False)),
    "image-to-video": Case(_generation(True), TWO, lambda size: generation_flops(size, True)),
}
"""Cases by name. Transformer cases are steps at two noise levels, text and coordinates new at the first."""
