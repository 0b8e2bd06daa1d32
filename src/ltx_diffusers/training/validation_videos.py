"""Videos that a model under training makes: for its validations, and as samples of a finished LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.pictures import contact_sheet
from ..data.video import read_image, read_video, write_video
from ..errors import InputError
from ..geometry import VideoSize, check_video_size
from ..pipelines.media import ReferenceVideo, VideoCondition
from ..pipelines.pipeline_ltx import LTXPipeline
from ..pipelines.pipeline_ltx_condition import LTXConditionPipeline
from .frozen_text import FrozenTexts, padded
from .transformer_config import TransformerTrainConfig


class ValidationVideos:
    """Makes the same videos each time: fixed prompts, pictures, references and seeds.

    Args:
        config: Settings of the run.
        captions: Prompts where the config has none.

    Raises:
        InputError: If the size of the videos isn't valid.
        MediaError: If a picture or a reference can't be read.
    """

    def __init__(self, config: TransformerTrainConfig, captions: Sequence[str]) -> None:
        samples, data = config.samples, config.data
        self.samples = samples
        self.prompts = list(samples.prompts or captions)
        self.frame_rate = samples.frame_rate or data.frame_rate
        self.size = check_video_size(
            samples.num_frames or data.num_frames, samples.height or data.height, samples.width or data.width
        )
        self.text_length = config.text_length
        self._conditions = [
            self._condition(index) for index in range(max(len(samples.images), len(samples.references)))
        ]

    @property
    def texts(self) -> list[str]:
        """Every text that is needed: the prompts and the negative prompt."""
        return [*self.prompts, self.samples.negative_prompt]

    def make(self, parts: dict[str, Any], texts: FrozenTexts | None) -> list[np.ndarray]:
        """The videos, uint8 (F, H, W, 3) each.

        Args:
            parts: Components of the pipeline, on one device.
            texts: Features of the texts where the pipeline has no text encoder.
        """
        if not self.prompts:
            return []
        kind = LTXConditionPipeline if self._conditions else LTXPipeline
        pipeline = kind(**parts)
        pipeline.set_progress_bar_config(disable=True)
        device = pipeline.transformer.device
        videos = []
        # All at once where it's cheap to; with conditions one by one, as they may be large.
        rows = [[index] for index in range(len(self.prompts))]
        if not self._conditions and self.size.height * self.size.width * self.size.frames <= 2**19:
            rows = [list(range(len(self.prompts)))]
        for indices in rows:
            videos += list(pipeline(**self._call(indices, texts, device)).frames)
        return [(np.asarray(video) * 255).round().astype(np.uint8) for video in videos]

    def write(self, videos: Sequence[np.ndarray], folder: Path) -> None:
        """Write the videos with their prompts, and a sheet of them."""
        if not videos:
            return
        contact_sheet(list(videos), self.prompts, path=folder / "videos.png")
        self.write_files(videos, folder)

    def write_files(self, videos: Sequence[np.ndarray], folder: Path) -> None:
        """Write the videos only, as 00.mp4 and so on."""
        for index, video in enumerate(videos):
            write_video(folder / f"{index:02d}.mp4", video, self.frame_rate, {"prompt": self.prompts[index]})

    def _call(
        self, indices: Sequence[int], texts: FrozenTexts | None, device: torch.device
    ) -> dict[str, Any]:
        samples = self.samples
        prompts = [self.prompts[index] for index in indices]
        # The first prompt's seed is `seed`, whatever is made together.
        generators = [torch.Generator().manual_seed(samples.seed + index) for index in indices]
        call: dict[str, Any] = {
            "height": self.size.height,
            "width": self.size.width,
            "num_frames": self.size.frames,
            "frame_rate": self.frame_rate,
            "num_inference_steps": samples.num_inference_steps,
            "guidance_scale": samples.guidance_scale,
            "generator": generators,
            "output_type": "np",
        }
        if self._conditions:
            call |= {"conditions": [[self._conditions[index]] for index in indices], "preset": None}
        if texts is None:
            negative = [samples.negative_prompt] * len(prompts)
            return call | {"prompt": prompts, "negative_prompt": negative}
        features = padded(texts.of([*prompts, samples.negative_prompt]))
        embeds, mask = features.embeds.to(device), features.mask.to(device)
        repeated = (len(prompts), -1, -1)
        return call | {
            "prompt_embeds": embeds[:-1],
            "prompt_attention_mask": mask[:-1],
            "negative_prompt_embeds": embeds[-1:].expand(repeated),
            "negative_prompt_attention_mask": mask[-1:].expand(repeated[:2]),
        }

    def _condition(self, index: int) -> VideoCondition | ReferenceVideo:
        from PIL import Image

        samples = self.samples
        if samples.references:
            frames, _ = read_video(samples.references[index], max_frames=self.size.frames)
            if len(frames) < self.size.frames:
                raise InputError(
                    "config key 'samples.references': a reference is shorter than the videos",
                    got=f"{samples.references[index]} with {len(frames)} frames",
                    expected=f"{self.size.frames}",
                )
            pictures = [Image.fromarray(frame) for frame in frames]
            return ReferenceVideo(pictures, scale=samples.reference_scale, fit="crop")
        picture = Image.fromarray(read_image(samples.images[index]))
        return VideoCondition(image=picture, fit="crop")


def bucket_name(size: VideoSize) -> str:
    """A size in frames, height and width, as it is logged: "49x512x768"."""
    return "x".join(map(str, size))
