"""Videos longer than the model makes at once: sliding windows, a prompt for each span of time."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.ltx.pipeline_output import LTXPipelineOutput
from torch import Tensor

from ..denoising.conditions import Condition
from ..errors import InputError, LTXError
from ..geometry import VideoSize
from .agreement import shared_groups
from .frames import to_output
from .long_video import Continuity, LongVideo, WindowCall
from .pipeline_ltx_condition import LTXConditionPipeline, listed_conditions
from .request import OUTPUT_TYPES, Request
from .speed import EXACT
from .window_files import WindowFiles, digest
from .window_media import deal_conditions, deal_video
from .windows import plan_windows, prompt_spans, window_sizes

# Arguments of the conditions' pipeline that say something else here, or nothing.
_TAKEN = (
    "output_type",
    "return_dict",
    "initial_latents",
    "latents",
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
    "prompt_enhancer",
)
_CONDITIONS = ("conditions", "image", "video", "frame_index", "strength")
_CALLBACK = ("callback_on_step_end", "callback_on_step_end_tensor_inputs")


class LTXLongVideoPipeline(LTXConditionPipeline):
    """A video of any length from one prompt or one for each span of time.

    The video is denoised in windows that overlap. What a window is given of those before it are their latents
    themselves, except for its first frame, so that nothing is lost from window to window; and the windows' latents are
    decoded as one video, so that no seam is in the pixels. The components are those of `LTXConditionPipeline`.

    Example:
        >>> pipe = LTXLongVideoPipeline.from_pretrained("Lightricks/LTX-Video-0.9.7-dev", dtype=torch.bfloat16)
        >>> prompt = [(0, "a red kite rises over the sea"), (8, "the red kite falls into the waves")]
        >>> with_kite = pipe(prompt, num_frames=401, generator=torch.Generator().manual_seed(0)).frames[0]
    """

    _carried: Sequence[Condition] = ()

    def __call__(
        self,
        prompt: str | Sequence[tuple[float, str]],
        num_frames: int,
        *,
        output_type: str = "pil",
        return_dict: bool = True,
        **arguments: Any,
    ) -> LTXPipelineOutput | tuple:
        """Make a long video and hold all of it in memory; `stream` gives it piece by piece.

        Args:
            prompt: As `stream`, like all that isn't listed here.
            num_frames: Of the whole video.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: Whether to return an output object, or a tuple.
            **arguments: As `stream`.

        Returns:
            One video as `.frames`, or in a tuple; for "latent" normalised latents (1, C, F, H, W).

        Raises:
            InputError: If an argument can't be used; before anything is computed.
            LTXError: If a callback stops it before the first window is done.
        """
        if output_type not in OUTPUT_TYPES:
            raise InputError("unknown output_type", got=output_type, expected=", ".join(OUTPUT_TYPES))
        video = self.stream(prompt, num_frames, **arguments)
        pieces = list(video.latents() if output_type == "latent" else video.decoded())
        if not pieces:
            raise LTXError("the video was stopped before its first window was done")
        frames = torch.cat(pieces, dim=2)
        frames = frames if output_type == "latent" else to_output(frames, output_type, overwrite=True)
        return LTXPipelineOutput(frames=frames) if return_dict else (frames,)

    def stream(
        self,
        prompt: str | Sequence[tuple[float, str]],
        num_frames: int,
        *,
        window_frames: int | None = None,
        overlap_frames: int | None = None,
        overlap_strength: float = 1.0,
        drift_control: float = 0.0,
        anchor_strength: float = 0.0,
        generator: torch.Generator | None = None,
        resume_folder: str | Path | None = None,
        decode_frames: int = 65,
        decode_overlap_frames: int = 16,
        **call: Any,
    ) -> LongVideo:
        """Plan and check a long video, to be made while its frames are taken from it.

        Args:
            prompt: One for the whole video, or pairs of the second at which a prompt begins and the prompt. No window
                follows two prompts; a prompt begins with the nearest latent frame.
            num_frames: Of the whole video, 8k + 1.
            window_frames: Denoised at once, 8k + 1. None: the model's default number of frames.
            overlap_frames: Given to each window of those before it, at least, 8k + 1. None: 25, or a
                quarter of a window, in whole latent frames.
            overlap_strength: How strongly; see `Continuity`.
            drift_control: Share by which later windows' statistics are held to the first window's; see `Continuity`.
            anchor_strength: How strongly the first frame is given to all later windows; see `Continuity`.
            generator: Draws a seed for each window; torch's global state if None.
            resume_folder: Where finished windows are kept. A later call with the same arguments goes on there.
            decode_frames: Decoded at once, 8k + 1.
            decode_overlap_frames: Frames that are decoded twice and faded into each other, a multiple of 8.
            **call: Further arguments of `LTXConditionPipeline.__call__`, for all windows. Conditions are those of the
                whole video: a picture or a clip goes to the window that makes its frames; references, regions and
                `initial_video` are as long as the whole video.

        Returns:
            Something to iterate over: uint8 arrays (frames, height, width, 3).

        Raises:
            InputError: If an argument can't be used; before anything is computed.
            MediaError: If the folder can't be used.
        """
        continuity = Continuity(overlap_strength, drift_control, anchor_strength)
        self._check_call(call, generator)
        # The conditions are checked with the windows that get them.
        plain = {name: value for name, value in call.items() if name not in (*_CONDITIONS, "initial_video")}
        begin = {"initial_video", "denoise_strength", "skip_initial_inference_steps"}
        whole = self._prepared_call(
            {name: value for name, value in plain.items() if name not in begin}
            | {"prompt": "", "num_frames": window_frames}
        )
        ratio = self.ratios.time
        size, overlap = window_sizes(whole.num_frames, overlap_frames, num_frames, ratio)
        decoded = (decode_frames, decode_overlap_frames)
        if not all(isinstance(number, int) for number in decoded) or (
            decode_frames % ratio != 1 or decode_overlap_frames % ratio
        ):
            raise InputError(
                f"decode_frames must be {ratio}k + 1, and decode_overlap_frames a multiple of {ratio}",
                got=f"{decode_frames} and {decode_overlap_frames}",
            )
        texts, changes = prompt_spans(prompt, num_frames, whole.frame_rate, ratio)
        windows = plan_windows((num_frames - 1) // ratio, size, overlap, changes)
        pixels = VideoSize(num_frames, whole.height, whole.width)

        lists = listed_conditions(call)
        if len(lists) > 1:
            raise InputError("a long video takes one list of conditions", got=f"{len(lists)} lists")
        conditions = deal_conditions(lists[0], pixels, self.ratios, windows)
        video = call.get("initial_video")
        videos = [None] * len(windows) if video is None else deal_video(video, num_frames, windows, ratio)
        decode_seed, *seeds = torch.randint(
            2**62, (1 + len(windows),), generator=generator, device=generator.device if generator else "cpu"
        ).tolist()
        shared = plain | {"height": whole.height, "width": whole.width}
        calls = [
            WindowCall(
                window,
                seed,
                shared
                | {"prompt": texts[window.prompt], "num_frames": ratio * (window.num_latents - 1) + 1}
                | ({"conditions": given} if given else {})
                | ({} if span is None else {"initial_video": span}),
            )
            for window, seed, given, span in zip(windows, seeds, conditions, videos, strict=True)
        ]
        requests = [self._prepared_call(entry.arguments) for entry in calls]
        files = None
        if resume_folder is not None:
            if shared_groups((self.transformer, self.vae)):
                raise InputError(
                    "processes that share the work of a video can't keep its windows in a folder: each would find "
                    "the others'",
                    fix="leave out resume_folder",
                )
            files = WindowFiles(resume_folder, self._plan_record(calls, continuity))
        tile = (decode_frames - 1) // ratio, decode_overlap_frames // ratio
        return LongVideo(self, calls, requests[0], continuity, files, decode_seed, tile)

    def _check_call(self, call: Mapping[str, Any], generator: Any) -> None:
        known = inspect.signature(LTXConditionPipeline.__call__).parameters
        unknown = [name for name in call if name not in known]
        taken = [name for name in call if name in _TAKEN]
        if unknown or taken:
            raise InputError(
                "a long video doesn't take these arguments",
                got=", ".join(unknown + taken),
                expected="those of stream, and of LTXConditionPipeline but for batches, latents and features; "
                "prompts are written out before",
            )
        if call.get("num_videos_per_prompt") not in (None, 1):
            raise InputError(
                "long videos are made one at a time",
                got=f"num_videos_per_prompt={call['num_videos_per_prompt']}",
            )
        if generator is not None and not isinstance(generator, torch.Generator):
            raise InputError("generator must be one torch.Generator", got=type(generator).__name__)

    def _prepared_call(self, arguments: Mapping[str, Any]) -> Request:
        """A call of the conditions' pipeline with its defaults, checked."""
        bound = inspect.signature(LTXConditionPipeline.__call__).bind(self, **arguments)
        bound.apply_defaults()
        return self._prepared(Request.from_call(bound.arguments))

    def _plan_record(self, calls: Sequence[WindowCall], continuity: Continuity) -> dict[str, Any]:
        """What the windows on the disk have to agree with."""
        state = [
            {
                "start": call.window.start,
                "end": call.window.end,
                "seed": call.seed,
                "call": digest(
                    {name: call.arguments[name] for name in call.arguments if name not in _CALLBACK}
                ),
            }
            for call in calls
        ]
        configs = [dict(part.config) for part in (self.transformer, self.vae, self.scheduler)]
        model = {
            "name": str(self.config.get("_name_or_path")),
            "configs": digest(configs),
            "loras": digest(self._loras()),
        }
        if self.speed != EXACT:
            model["speed"] = self.speed
        return {"windows": state, "continuity": vars(continuity), "model": model}

    def _loras(self) -> dict[str, Any]:
        """What tells the transformer's LoRAs from others, at little cost: sums of their weights, and their scales."""
        transformer = self.transformer
        weights = {
            name: parameter.detach().double().sum().item()
            for name, parameter in transformer.named_parameters()
            if ".lora_" in name
        }
        scales = {
            name: [getattr(module, "active_adapters", None), module.scaling]
            for name, module in transformer.named_modules()
            if isinstance(getattr(module, "scaling", None), dict)
        }
        return {"weights": weights, "scales": scales}

    def _window_latents(self, arguments: dict[str, Any], carried: Sequence[Condition], name: str) -> Tensor:
        """Denoise one window: latents (1, C, F, H, W)."""
        bar = getattr(self, "_progress_bar_config", {})
        self._carried, self._progress_bar_config = carried, {"desc": name, **bar}
        try:
            return LTXConditionPipeline.__call__(self, **arguments, output_type="latent").frames
        finally:
            self._carried, self._progress_bar_config = (), bar

    def _conditions(self, request: Request, latents: Tensor | None, device: torch.device) -> list[Condition]:
        # Last, so that a region's video doesn't replace what the windows before have made of it.
        return [*super()._conditions(request, latents, device), *self._carried]
