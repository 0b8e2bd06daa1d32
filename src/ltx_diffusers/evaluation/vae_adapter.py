"""Any video autoencoder of Diffusers behind one small interface, so that systems can be measured side by side."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..functional.latents import normalize_latents
from ..geometry import CompressionRatios, nearest_valid_frames, nearest_valid_side
from ..pipelines.decoding import decode_latents
from .reconstruction import decode_by_default

OURS = ("AutoencoderKLLTX", "AutoencoderKLLTXVideo")
"""Classes that are loaded as `AutoencoderKLLTX`."""

Generators = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True)
class Encoded:
    """What an encoder says of a video.

    Attributes:
        mean: The latents, float32 (B, C, F', H', W'): the mode of the posterior.
        variance: Of the posterior, of the same shape; None for an autoencoder that has none.
    """

    mean: Tensor
    variance: Tensor | None


class VideoAutoencoder:
    """A video autoencoder, encoded to the mode and decoded as its pipelines do by default.

    Ours, and those of Diffusers whose `encode` takes (B, 3, F, H, W) in [-1, 1] and whose `decode` needs nothing but
    the latents: CogVideoX, Wan, HunyuanVideo, Mochi, Cosmos, LTX-2 and others. Autoencoders of images (without 3-D
    convolutions) see each frame by itself. Latents are those of the encoder, before any scaling for a transformer.

    Args:
        model: The autoencoder.
        name: How it is called in tables.

    Raises:
        InputError: If it can't be called like that.
    """

    def __init__(self, model: Any, name: str = "") -> None:
        missing = [method for method in ("encode", "decode", "config") if not hasattr(model, method)]
        if missing:
            raise InputError(
                "this is no video autoencoder",
                got=f"{type(model).__name__} without {', '.join(missing)}",
                expected="one of this library, or of Diffusers",
            )
        needed = [
            parameter.name
            for parameter in list(inspect.signature(model.decode).parameters.values())[1:]
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        if needed:
            raise InputError(
                f"the decoder of {type(model).__name__} can't be measured",
                got=f"it also needs {', '.join(needed)}",
                expected="a decoder that needs nothing but the latents",
            )
        self.model = model.eval()
        self.name = name or type(model).__name__
        self.is_image_model = not any(isinstance(module, nn.Conv3d) for module in model.modules())

    @property
    def takes_noise_level(self) -> bool:
        """Whether the decoder also takes out noise, and is told how much."""
        return bool(self.model.config.get("timestep_conditioning", False))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def stated_ratios(self) -> CompressionRatios | None:
        """Pixels per latent as the model states them, None where it doesn't: classes use different names."""
        time = self._stated("temporal_compression_ratio", "scale_factor_temporal")
        space = self._stated("spatial_compression_ratio", "scale_factor_spatial")
        if self.is_image_model:
            time = 1
        return None if time is None or space is None else CompressionRatios(int(time), int(space), int(space))

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        """Refuse a size that the model can't take, as far as it states what it takes; see `check_round_trip`.

        Raises:
            InputError: With the nearest sizes that it can.
        """
        ratios = self.stated_ratios()
        if ratios is None:
            return
        for name, side, ratio in (("height", height, ratios.height), ("width", width, ratios.width)):
            near = nearest_valid_side(side, ratio)
            if near != (side,):
                raise InputError(
                    f"{self.name} takes a {name} that is a multiple of {ratio} pixels",
                    got=side,
                    fix=f"use {' or '.join(map(str, near))}",
                )
        near = nearest_valid_frames(num_frames, ratios.time)
        if near != (num_frames,) and num_frames % ratios.time:  # some aren't causal and take multiples
            raise InputError(
                f"{self.name} can't take this number of frames",
                got=num_frames,
                fix=f"use {' or '.join(map(str, near))}",
            )

    def check_round_trip(self, num_frames: int, height: int, width: int) -> Encoded:
        """Try with a grey video that as much comes back as went in.

        Returns:
            Its latents, which tell the compression.

        Raises:
            InputError: If not, or the model fails.
        """
        video = torch.zeros(1, 3, num_frames, height, width)
        try:
            encoded = self.encode(video)
            got = tuple(self.decode(encoded.mean, torch.Generator().manual_seed(0)).shape)
        except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
            raise InputError(
                f"{self.name} can't take {num_frames} frames of {width}x{height}",
                got=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}",
            ) from error
        if got != tuple(video.shape):
            raise InputError(
                f"{self.name} gives back another size than it gets",
                got=f"{got[2]} frames of {got[4]}x{got[3]}",
                expected=f"{num_frames} frames of {width}x{height}",
                fix="choose another number of frames or size",
            )
        return encoded

    @torch.no_grad()
    def encode(self, video: Tensor) -> Encoded:
        """Latents of videos (B, 3, F, H, W) in [-1, 1]; brought to the model's device and type."""
        weight = next(self.model.parameters())
        video = video.to(weight.device, weight.dtype)
        batch = len(video)
        if self.is_image_model:
            video = video.transpose(1, 2).flatten(0, 1)
        output = self.model.encode(video)
        posterior = getattr(output, "latent_dist", None)
        if posterior is None:
            latents, variance = getattr(output, "latent", None), None
            if latents is None:
                latents = output[0]
        else:
            latents, variance = posterior.mode(), getattr(posterior, "var", None)
        if self.is_image_model:
            latents, variance = (_as_video(part, batch) for part in (latents, variance))
        return Encoded(latents.float(), None if variance is None else variance.float().expand_as(latents))

    @torch.no_grad()
    def decode(self, latents: Tensor, generator: Generators = None, level: float | None = None) -> Tensor:
        """Videos (B, 3, F, H, W), float32 in [-1, 1], of latents as the encoder gave them.

        Args:
            latents: (B, C, F', H', W').
            generator: Source of the noise for a decoder that takes it out.
            level: Noise of this level is mixed into the normalised latents, and such a decoder told so; None takes
                the model's own settings, as its pipelines do. Only for decoders that take a level.

        Raises:
            InputError: If a level is given for a decoder that takes none.
        """
        model = self.model
        latents = latents.to(self.device)
        if self.takes_noise_level:
            scaling = model.config.get("scaling_factor", 1.0)
            latents = normalize_latents(latents, model.latents_mean, model.latents_std, scaling)
            if level is None:
                return decode_by_default(model, latents, generator)
            settings = {"timestep": [level] * len(latents), "noise_scale": [level] * len(latents)}
            return decode_latents(model, latents, generator=generator, **settings).float().clamp(-1, 1)
        if level is not None:
            raise InputError(f"the decoder of {self.name} takes no noise level", got=level)
        batch = len(latents)
        if self.is_image_model:
            latents = latents.transpose(1, 2).flatten(0, 1)
        # A decoder that injects noise (0.9.1) can be seeded where its `decode` says so.
        seeded = "generator" in inspect.signature(model.decode).parameters
        output = model.decode(
            latents.to(next(model.parameters()).dtype), **({"generator": generator} if seeded else {})
        )
        video = output if isinstance(output, Tensor) else output[0]
        return (_as_video(video, batch) if self.is_image_model else video).float().clamp(-1, 1)

    def describe(self, encoded: Encoded, size: tuple[int, int, int]) -> dict[str, Any]:
        """Plain facts, for reports.

        Args:
            encoded: Of one video.
            size: That video's frames, height and width.
        """
        latent_size = tuple(encoded.mean.shape[2:])
        values = size[0] * size[1] * size[2]
        parts = {
            part: sum(weight.numel() for weight in getattr(self.model, part).parameters())
            for part in ("encoder", "decoder")
            if isinstance(getattr(self.model, part, None), nn.Module)
        }
        return {
            "name": self.name,
            "class": type(self.model).__name__,
            "parameters": {"all": sum(weight.numel() for weight in self.model.parameters()), **parts},
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "latent_channels": encoded.mean.shape[1],
            "latent_size": dict(zip(("frames", "height", "width"), latent_size, strict=True)),
            "pixels_per_latent": values / (latent_size[0] * latent_size[1] * latent_size[2]),
            "compression": 3 * values / (encoded.mean.numel() / len(encoded.mean)),
            "first_latent_is_one_frame": first_latent_is_one_frame(size[0], latent_size[0]),
        }

    def _stated(self, *names: str) -> float | None:
        for name in names:
            value = self.model.config.get(name)
            value = vars(self.model).get(name) if value is None else value
            if isinstance(value, int | float):
                return value
        return None


def first_latent_is_one_frame(num_frames: int, latent_frames: int) -> bool:
    """Whether a causal autoencoder made these latents, whose first latent frame stands for the first frame alone.

    That is, whether F = r (F' - 1) + 1 rather than F = r F'. Where both would do, r is taken to be a power of two.
    """
    if latent_frames < 2 or num_frames <= latent_frames or (num_frames - 1) % (latent_frames - 1):
        return False
    if num_frames % latent_frames:
        return True
    return _is_power_of_two((num_frames - 1) // (latent_frames - 1))


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def load_autoencoder(source: Path | str, subfolder: str | None, config_file: Path, **options: Any) -> Any:
    """Load the autoencoder that a config names: ours, a registered one, or one of Diffusers.

    Args:
        source: Its folder or repository.
        subfolder: The folder in it.
        config_file: Its `config.json`.
        options: For `from_pretrained`.

    Raises:
        InputError: If there is no such class, or it can't be loaded.
    """
    try:
        name = json.loads(config_file.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{config_file} can't be read", got=f"{type(error).__name__}: {error}") from error
    kind = _class_of(str(name))
    try:
        return kind.from_pretrained(source, subfolder=subfolder, **options)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise InputError(f"{source} can't be loaded as {name}", got=reason) from error


def _class_of(name: str) -> Any:
    if name in OURS:
        from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX

        return AutoencoderKLLTX
    import diffusers

    from ..models.autoencoders import autoencoders

    registered = (autoencoders.get(entry) for entry in autoencoders.list())
    found = next((entry for entry in registered if getattr(entry, "__name__", None) == name), None)
    found = getattr(diffusers, name, None) if found is None else found
    if not hasattr(found, "from_pretrained"):
        raise InputError(
            "unknown class of an autoencoder",
            got=repr(name),
            expected="one of this library, of a plugin, or of the installed Diffusers",
        )
    return found


def _as_video(frames: Tensor | None, batch: int) -> Tensor | None:
    """Frames (B F, C, H, W) as (B, C, F, H, W)."""
    return None if frames is None else frames.unflatten(0, (batch, -1)).transpose(1, 2)
