"""What `benchmarks.gpu` runs: models with the same random weights on one device, and functions that use them."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from diffusers import LTXPipeline as DiffusersPipeline
from torch.utils.flop_counter import FlopCounterMode
from transformers import BatchEncoding, T5Config, T5EncoderModel

from ltx_diffusers import AutoencoderKLLTX, LTXFlowMatchScheduler, LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.models.transformers.step_cache import StepCache
from ltx_diffusers.pipelines.speed import compile_blocks, product_config, quantize_blocks
from ltx_diffusers.schedulers.foreign_configs import from_diffusers

from .cases import GUIDANCE
from .sizes import FRAME_RATE, LATENT_CHANNELS, TEXT_LENGTH, Size
from .sizes import SIZES as CASE_SIZES

Work = Callable[[], torch.Tensor]
Target = tuple[str, Callable[[], Work]]
"""A name, and what builds the work."""
WORDS = 40
"""Tokens of the prompt of a step; the other positions up to `TEXT_LENGTH` are padding."""


@dataclass
class GpuSize:
    """Models and video of a run.

    Attributes:
        case: Settings of transformer and VAE, and the video's size.
        text: Settings of the text encoder.
        steps: Of the run without guidance; with guidance twice as many.
        reaches: Seconds that are to be reached, by case and target.
    """

    case: Size
    text: dict[str, int]
    steps: int
    reaches: dict[tuple[str, str], float] = field(default_factory=dict)


_T5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}
_TINY_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 100}

SIZES = {
    "2b": GpuSize(
        CASE_SIZES["2b"],
        _T5_XXL,
        20,
        {
            ("20 steps without guidance, to uint8", "ours"): 1.2,
            ("20 steps without guidance, to uint8", "ours, compiled"): 1.2,
            ("20 steps without guidance, to uint8", "ours, 8 bits, compiled"): 0.9,
            ("8 steps, distilled, to uint8", "ours"): 0.65,
            ("8 steps, distilled, to uint8", "ours, compiled"): 0.65,
            ("40 steps with guidance, to uint8", "ours"): 4.2,
            ("40 steps with guidance, to uint8", "ours, compiled"): 4.2,
            ("decode", "ours"): 0.25,
            ("decode", "ours, in pieces"): 0.25,
        },
    ),
    "tiny": GpuSize(CASE_SIZES["tiny"], _TINY_T5, 4),
}


class _Tokens:
    """Stands for a tokenizer, whose vocabulary would have to come from a file."""

    model_max_length = TEXT_LENGTH

    def __call__(self, texts: Any, *, max_length: int = WORDS, return_tensors: Any = None, **_: Any) -> Any:
        texts = [texts] if isinstance(texts, str) else texts
        if return_tensors is None:
            return BatchEncoding({"input_ids": [list(range(WORDS)) for _ in texts]})
        ids = torch.arange(3, 3 + max_length).remainder(90).expand(len(texts), -1).clone()
        # Without padding, because Diffusers' pipelines give their T5 no mask, which would make other features.
        mask = torch.ones_like(ids)
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})


class GpuModels:
    """Models of both libraries, which share their weights' memory.

    Args:
        size: Which.
        dtype: Of weights and activations.
        device: Where.
        flops: Operations a second of the machine's best product.
        bandwidth: Bytes a second.
    """

    def __init__(
        self, size: GpuSize, dtype: torch.dtype, device: torch.device, flops: float, bandwidth: float
    ) -> None:
        self.size, self.dtype, self.device = size, dtype, device
        self.flops, self.bandwidth = flops, bandwidth
        self._made: dict[str, torch.nn.Module] = {}
        self._counted: dict[str, float] = {}

    def get(self, name: str) -> torch.nn.Module:
        """A model: "transformer" or "vae", "ours" or "diffusers", with " compiled" or " 8 bits" behind it."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> torch.nn.Module:
        part, library, *ways = name.split()
        config = dict(getattr(self.size.case, part))
        if f"{part} ours" not in self._made:
            torch.manual_seed(0)
            kind = LTXTransformer3DModel if part == "transformer" else AutoencoderKLLTX
            settings = config | ({"causal_temporal_positioning": False} if part == "transformer" else {})
            with torch.device(self.device):
                self._made[f"{part} ours"] = kind(**settings).to(self.dtype).eval().requires_grad_(False)
        first = self._made[f"{part} ours"]
        if (library, ways) == ("ours", []):
            return first
        model = self._on_meta(part, library)
        model.load_state_dict(first.state_dict(), assign=True)
        model = model.eval().requires_grad_(False)
        if "bits" in ways:
            config = product_config(self.device, self.dtype)
            if config is None:
                raise RuntimeError("products of 8 bits don't pay on this device")
            quantize_blocks(model, config)
        if "compiled" in ways:
            # On a CPU only the script is tried, and generating code takes minutes.
            compile_blocks(model, **({} if self.device.type == "cuda" else {"backend": "eager"}))
        return model

    def _on_meta(self, part: str, library: str) -> torch.nn.Module:
        config = dict(getattr(self.size.case, part))
        kinds = {
            ("transformer", "ours"): LTXTransformer3DModel,
            ("transformer", "diffusers"): LTXVideoTransformer3DModel,
            ("vae", "ours"): AutoencoderKLLTX,
            ("vae", "diffusers"): AutoencoderKLLTXVideo,
        }
        if library == "diffusers":
            config = {name: value for name, value in config.items() if not name.startswith("default_")}
        elif part == "transformer":
            config["causal_temporal_positioning"] = False
        with torch.device("meta"):
            return kinds[part, library](**config)

    def _random(self, *shape: int, seed: int = 3) -> torch.Tensor:
        source = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=source).to(self.device, self.dtype)

    def _step_inputs(self, texts: int, device: str | torch.device) -> dict[str, Any]:
        latent, words = self.size.case.latent, TEXT_LENGTH
        tokens = latent.frames * latent.height * latent.width
        mask = (torch.arange(words) < WORDS).long().expand(texts, -1)
        return {
            "hidden_states": self._random(1, tokens, LATENT_CHANNELS).expand(texts, -1, -1).to(device),
            "encoder_hidden_states": self._random(
                texts, words, self.size.case.transformer["caption_channels"], seed=4
            ).to(device),
            "timestep": torch.full((texts,), 700.0).to(device),
            "encoder_attention_mask": mask.to(device),
            "num_frames": latent.frames,
            "height": latent.height,
            "width": latent.width,
            "return_dict": False,
        }

    def steps(self, texts: int) -> Iterator[Target]:
        """One run of the transformer, everything that a loop does once done before."""
        scale = (8 / FRAME_RATE, 32, 32)

        def ours(name: str) -> Work:
            model, inputs, cache = self.get(name), self._step_inputs(texts, self.device), StepCache()
            inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :WORDS].contiguous()
            inputs["encoder_attention_mask"] = None  # as the loop leaves padding out
            inputs["hidden_states"] = inputs["hidden_states"][:1].contiguous()
            inputs["timestep"] = inputs["timestep"][:1]
            coords = model._coordinates(self.size.case.latent, FRAME_RATE, None, 1, self.device)

            @torch.no_grad()
            def work() -> torch.Tensor:
                return model(**inputs, video_coords=coords, step_cache=cache)[0]

            return work

        def theirs(name: str) -> Work:
            model, inputs = self.get(name), self._step_inputs(texts, self.device)

            @torch.no_grad()
            def work() -> torch.Tensor:
                return model(**inputs, rope_interpolation_scale=scale)[0]

            return work

        yield "ours", lambda: ours("transformer ours")
        yield "diffusers", lambda: theirs("transformer diffusers")
        yield "ours, CUDA graph", lambda: self._as_graph(ours("transformer ours"))
        yield "diffusers, compiled", lambda: theirs("transformer diffusers compiled")
        yield "ours, compiled", lambda: ours("transformer ours compiled")
        yield "ours, 8 bits, compiled", lambda: ours("transformer ours 8 bits compiled")

    def _as_graph(self, work: Work) -> Work:
        """The same work, recorded once and replayed: what waits for the device or moves memory can't be recorded."""
        if self.device.type != "cuda":
            raise RuntimeError("CUDA graphs need a GPU")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    def _pipeline(self, transformer: str, **parts: Any) -> Any:
        library = transformer.split()[1]
        theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05)
        ours = LTXFlowMatchScheduler.from_config(from_diffusers(theirs.config))
        components = {
            "scheduler": ours if library == "ours" else theirs,
            "transformer": self.get(transformer),
            "vae": self.get(f"vae {library}"),
            "text_encoder": None,
            "tokenizer": None,
        }
        kind = LTXPipeline if library == "ours" else DiffusersPipeline
        pipeline = kind(**components | parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def videos(self, steps: int, guided: bool) -> Iterator[Target]:
        """From a prompt's token ids to uint8 frames on the host, T5 included."""
        frames, height, width = self.size.case.video
        noise = self._random(1, LATENT_CHANNELS, *self.size.case.latent, seed=6).float()
        packed = noise.flatten(2).transpose(1, 2).contiguous()
        encoder = self._text_encoder()

        def make(transformer: str) -> Work:
            pipeline = self._pipeline(transformer, text_encoder=encoder, tokenizer=_Tokens())

            def work() -> torch.Tensor:
                video = pipeline(
                    prompt="a prompt",
                    num_frames=frames,
                    height=height,
                    width=width,
                    frame_rate=FRAME_RATE,
                    num_inference_steps=steps,
                    guidance_scale=GUIDANCE if guided else 1.0,
                    decode_timestep=0.05,
                    decode_noise_scale=0.0,
                    latents=packed.clone(),
                    max_sequence_length=TEXT_LENGTH,
                    generator=torch.Generator().manual_seed(7),
                    output_type="pt",
                ).frames
                return (video * 255).round_().to(torch.uint8).cpu()

            return work

        targets = ("ours", "diffusers", "ours compiled", "diffusers compiled", "ours 8 bits compiled")
        for target in targets:
            name = target.replace(" compiled", ", compiled").replace(" 8 bits", ", 8 bits")
            yield name, lambda target=target: make(f"transformer {target}")

    def _text_encoder(self) -> torch.nn.Module:
        if "text" not in self._made:
            torch.manual_seed(2)
            config = T5Config(**self.size.text, feed_forward_proj="gated-gelu", use_cache=False)
            with torch.device(self.device):
                default = torch.get_default_dtype()
                torch.set_default_dtype(self.dtype)
                try:
                    encoder = T5EncoderModel(config)
                finally:
                    torch.set_default_dtype(default)
            self._made["text"] = encoder.eval().requires_grad_(False)
        return self._made["text"]

    def decodes(self) -> Iterator[Target]:
        """The whole video from latents, exact."""
        latents = self._random(1, LATENT_CHANNELS, *self.size.case.latent, seed=5)
        temb = torch.full((1,), 0.05, device=self.device, dtype=self.dtype)

        def of(vae: Any) -> Work:
            @torch.no_grad()
            def work() -> torch.Tensor:
                return vae.decode(latents, temb, return_dict=False)[0]

            return work

        def in_pieces() -> Work:
            vae = self._make("vae ours again")
            vae.use_pieces = True
            return of(vae)

        def bounded() -> Work:
            vae = self._make("vae ours again")
            vae.enable_memory_budget("1GB")
            return of(vae)

        def channels_last() -> Work:
            vae = self._make("vae diffusers again")
            vae.load_state_dict({name: x.clone() for name, x in vae.state_dict().items()}, assign=True)
            return of(vae.to(memory_format=torch.channels_last_3d))

        yield "ours", lambda: of(self.get("vae ours"))
        yield "diffusers", lambda: of(self.get("vae diffusers"))
        yield "ours, in pieces", in_pieces
        yield "ours, budget of 1 GB", bounded
        yield "diffusers, channels last", channels_last

    def encodes(self) -> Iterator[Target]:
        """The whole video to latents."""
        video = self._random(1, 3, *self.size.case.video, seed=8)

        def of(vae: Any) -> Work:
            @torch.no_grad()
            def work() -> torch.Tensor:
                return vae.encode(video).latent_dist.mean

            return work

        yield "ours", lambda: of(self.get("vae ours"))
        yield "diffusers", lambda: of(self.get("vae diffusers"))

    def loads(self) -> Iterator[Target]:
        """The transformer from files just written to the device."""
        self._folder = (
            tempfile.TemporaryDirectory()
        )  # until the end: files are read after the last target is built
        folder = Path(self._folder.name)
        self.get("transformer diffusers").save_pretrained(folder)

        def of(kind: type) -> Work:
            def work() -> torch.Tensor:
                model = kind.from_pretrained(folder, dtype=self.dtype).to(self.device)
                return model.proj_out.weight.detach().clone()

            return work

        yield "ours", lambda: of(LTXTransformer3DModel)
        yield "diffusers", lambda: of(LTXVideoTransformer3DModel)

    def whole_memory(self) -> dict[str, Any]:
        """Most memory of a whole text-to-video with everything on the device, T5 freed after encoding."""
        if self.device.type != "cuda":
            raise RuntimeError("only a GPU's memory is counted")
        pipeline = self._pipeline("transformer ours", text_encoder=self._text_encoder(), tokenizer=_Tokens())
        with torch.no_grad():
            embeds, mask, _, _ = pipeline.encode_prompt(
                "a prompt", None, False, max_sequence_length=TEXT_LENGTH
            )
        pipeline.text_encoder = None
        kept = ("transformer ours", "vae ours")
        self._made = {name: self._made[name] for name in kept}
        self.get("vae ours").enable_memory_budget("1GB")
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        weights = torch.cuda.memory_allocated()
        frames, height, width = self.size.case.video
        begin = time.monotonic()
        pipeline(
            prompt_embeds=embeds,
            prompt_attention_mask=mask,
            num_frames=frames,
            height=height,
            width=width,
            frame_rate=FRAME_RATE,
            num_inference_steps=self.size.steps,
            guidance_scale=1.0,
            decode_timestep=0.05,
            decode_noise_scale=0.0,
            output_type="pt",
        )
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 1e9
        return {
            "median_seconds": round(time.monotonic() - begin, 4),
            "rounds": 1,
            "peak_gb": round(peak, 3),
            "weights_gb": round(weights / 1e9, 3),
            "reach": f"<= 6 GB in all: {'reached' if peak <= 6 else 'not reached'}",
        }

    def floor(self, case: str, transformer_runs: int) -> float | None:
        """Seconds that a case takes at least."""
        seconds = transformer_runs * self._part_floor("transformer") if transformer_runs else 0.0
        if case.startswith("load"):
            return None
        if case in ("encode", "decode"):
            return self._part_floor(case)
        return seconds + (self._part_floor("decode") if "uint8" in case else 0.0)

    def _part_floor(self, part: str) -> float:
        """Of one run with one text, from operations and bytes of weights counted on Diffusers' model."""
        if part in self._counted:
            return self._counted[part]
        meta = torch.device("meta")
        latent = self.size.case.latent
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            if part == "transformer":
                model = self._on_meta("transformer", "diffusers")
                inputs = {
                    name: value.to(meta).float() if isinstance(value, torch.Tensor) else value
                    for name, value in self._step_inputs(1, meta).items()
                }
                model(**inputs, rope_interpolation_scale=(8 / FRAME_RATE, 32, 32))
                used: Any = model
            else:
                vae = self._on_meta("vae", "diffusers")
                used = vae.decoder if part == "decode" else vae.encoder
                if part == "decode":
                    z = torch.empty(1, LATENT_CHANNELS, *latent, device=meta)
                    vae.decode(z, torch.empty(1, device=meta), return_dict=False)
                else:
                    vae.encode(torch.empty(1, 3, *self.size.case.video, device=meta))
        weights = sum(parameter.numel() for parameter in used.parameters()) * self.dtype.itemsize
        self._counted[part] = max(counter.get_total_flops() / self.flops, weights / self.bandwidth)
        return self._counted[part]
