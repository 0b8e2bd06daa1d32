"""The Python code that a card shows: it runs as it stands, on a GPU or without one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from textwrap import dedent
from typing import Any

from .contents import COMPONENT, DIFFUSERS, LORA, OFFICIAL, PIPELINE, Contents

_DEVICE = (
    'device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)\n'
)
OFFICIAL_TEXT_ENCODER = "PixArt-alpha/PixArt-XL-2-1024-MS"
"""The T5 encoder that the official package takes."""

_INSTALL = {
    "ltx-diffusers": "pip install ltx-diffusers",
    "diffusers": "pip install diffusers transformers accelerate sentencepiece imageio imageio-ffmpeg",
}


def usage(
    contents: Contents,
    layout: str,
    repository: str,
    *,
    prompt: str,
    base_model: str | None,
    settings: Mapping[str, Mapping[str, Any]],
    file: str | None = None,
    text_encoder: str | None = None,
) -> str:
    """Markdown with the code that uses a model.

    Args:
        contents: What was uploaded.
        layout: In which layout.
        repository: Where.
        prompt: What the video of the example shows.
        base_model: For a LoRA and a lone part: the pipeline that it belongs to.
        settings: Configs of the transformer, the VAE and the scheduler, as ours have them.
        file: For the official layout and a LoRA: the weights' file.
        text_encoder: For the official layout: where a text encoder is; the official one's place if None.
    """
    name, text = json.dumps(repository), json.dumps(prompt, ensure_ascii=False)
    if contents.kind == LORA:
        code = _lora(name, text, json.dumps(base_model), json.dumps(file), settings)
    elif contents.kind == COMPONENT:
        code = _component(
            contents, layout, json.dumps(f"{repository}/{file}") if layout == OFFICIAL else name
        )
    elif contents.kind == PIPELINE and not contents.makes_videos:
        code = _upsampling("diffusers" if layout == DIFFUSERS else "ltx_diffusers", name)
    elif layout == OFFICIAL:
        place = json.dumps(text_encoder or OFFICIAL_TEXT_ENCODER)
        code = _official(json.dumps(f"{repository}/{file}"), text, place, settings)
    elif layout == DIFFUSERS:
        code = _diffusers(name, text, settings)
    else:
        code = _native(name, text, settings)
    library = "diffusers" if layout == DIFFUSERS and contents.kind != LORA else "ltx-diffusers"
    return f"```bash\n{_INSTALL[library]}\n```\n\n```python\n{code.strip()}\n```"


def _native(name: str, prompt: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    return (
        _OWN_IMPORTS
        + _DEVICE
        + f"pipe = LTXPipeline.from_pretrained({name}, dtype=dtype).to(device)\n"
        + (_own_call(prompt, settings))
    )


def _lora(
    name: str, prompt: str, base_model: str, file: str, settings: Mapping[str, Mapping[str, Any]]
) -> str:
    return (
        _OWN_IMPORTS
        + _DEVICE
        + f"pipe = LTXPipeline.from_pretrained({base_model}, dtype=dtype).to(device)\n"
        + f"pipe.load_lora_weights({name}, weight_name={file})\n"
        + _own_call(prompt, settings)
    )


def _official(name: str, prompt: str, text_encoder: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    return (
        _OWN_IMPORTS
        + _DEVICE
        + f"pipe = LTXPipeline.from_single_file(\n    {name},\n    text_encoder={text_encoder},\n"
        + "    dtype=dtype,\n    device=device,\n)\n"
        + _own_call(prompt, settings)
    )


_OWN_IMPORTS = dedent("""\
    import numpy as np
    import torch
    from ltx_diffusers import LTXPipeline
    from ltx_diffusers.data.video import write_video

    """)


def _own_call(prompt: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    rate = settings.get("transformer", {}).get("default_frame_rate") or 25
    return (
        f"video = pipe(\n    {prompt},\n    generator=torch.Generator().manual_seed(0),\n"
        f'    output_type="np",\n).frames[0]\n'
        f'write_video("video.mp4", np.round(255 * video).astype(np.uint8), fps={rate:g})\n'
    )


def _diffusers(name: str, prompt: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Code with Diffusers alone, with the settings that its configs can't hold spelled out."""
    transformer, vae, scheduler = (settings.get(part, {}) for part in ("transformer", "vae", "scheduler"))
    # Diffusers' only pipeline with causal coordinates and the linear-quadratic schedule is the one with conditions.
    pipeline = "LTXConditionPipeline" if scheduler.get("schedule") == "linear-quadratic" else "LTXPipeline"
    rate = transformer.get("default_frame_rate") or 25
    arguments = {
        "height": transformer.get("default_height") or 512,
        "width": transformer.get("default_width") or 704,
        "num_frames": transformer.get("default_num_frames") or 161,
        "frame_rate": int(rate),
        "num_inference_steps": scheduler.get("default_num_inference_steps") or 50,
        "guidance_scale": scheduler.get("default_guidance_scale") or 3.0,
        "max_sequence_length": 256,
    }
    if scheduler.get("allowed_inference_steps"):
        steps = [round(1000 * sigma, 4) for sigma in scheduler["allowed_inference_steps"]]
        arguments |= {"timesteps": steps, "guidance_scale": 1.0}
        del arguments["num_inference_steps"]
    if vae.get("timestep_conditioning"):
        arguments["decode_timestep"] = _or(vae.get("default_decode_timestep"), 0.05)
        arguments["decode_noise_scale"] = _or(vae.get("default_decode_noise_scale"), 0.025)
    lines = "".join(f"    {key}={value},\n" for key, value in arguments.items())
    return (
        f"import torch\nfrom diffusers import {pipeline}\nfrom diffusers.utils import export_to_video\n\n"
        + _DEVICE
        + f"pipe = {pipeline}.from_pretrained({name}, dtype=dtype).to(device)\n"
        + f'video = pipe(\n    prompt={prompt},\n    negative_prompt="",\n{lines}'
        + "    generator=torch.Generator().manual_seed(0),\n).frames[0]\n"
        + f'export_to_video(video, "video.mp4", fps={int(rate)})\n'
    )


def _upsampling(library: str, name: str) -> str:
    return (
        f"import torch\nfrom {library} import LTXLatentUpsamplePipeline\n\n"
        + _DEVICE
        + f"pipe = LTXLatentUpsamplePipeline.from_pretrained({name}, dtype=dtype).to(device)\n"
        + "latents = torch.zeros(1, pipe.vae.config.latent_channels, 2, 4, 4, device=device, dtype=dtype)\n"
        + 'larger = pipe(latents=latents, output_type="latent").frames\n'
    )


def _component(contents: Contents, layout: str, name: str) -> str:
    class_name = contents.index["_class_name"]
    library = "diffusers" if layout == DIFFUSERS else "ltx_diffusers"
    own, theirs = _CLASSES[contents.part]
    class_name = theirs if layout == DIFFUSERS else own
    place = "diffusers.pipelines.ltx" if class_name == "LTXLatentUpsamplerModel" else library
    code = f"import torch\nfrom {place} import {class_name}\n\n"
    load = "from_single_file" if layout == OFFICIAL else "from_pretrained"
    code += _DEVICE + f"model = {class_name}.{load}({name}, dtype=dtype).to(device)\n"
    if contents.part == "vae":
        code += (
            "video = torch.zeros(1, 3, 9, 64, 64, device=device, dtype=dtype)"
            "  # (batch, channels, frames, height, width), values from -1 to 1\n"
            "latents = model.encode(video).latent_dist.mode()\n"
        )
    return code


_CLASSES = {
    "transformer": ("LTXTransformer3DModel", "LTXVideoTransformer3DModel"),
    "vae": ("AutoencoderKLLTX", "AutoencoderKLLTXVideo"),
    "spatial_upsampler": ("LTXLatentUpsampler", "LTXLatentUpsamplerModel"),
}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
