"""Calls whose prompts have conditions of different kinds: split into groups that run as one batch each.

Videos of one batch have the same tokens. Prompts with other conditions have others, and so are a batch of their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .request import Request, per_video

BY_PROMPT = (
    "prompt",
    "negative_prompt",
    "prompt_embeds",
    "prompt_attention_mask",
    "negative_prompt_embeds",
    "negative_prompt_attention_mask",
    "conditions",
)
BY_VIDEO = ("generator", "latents", "initial_latents")
"""Arguments that may have one entry for each prompt, or for each video."""


def equal_groups(kinds: Sequence[Hashable]) -> list[list[int]]:
    """Indices of equal entries together, in the order of their first ones."""
    groups: dict[Hashable, list[int]] = {}
    for index, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(index)
    return list(groups.values())


def videos_of(prompts: Sequence[int], videos_per_prompt: int) -> list[int]:
    """Indices of the videos of some prompts."""
    return [prompt * videos_per_prompt + video for prompt in prompts for video in range(videos_per_prompt)]


def part_of(request: Request, prompts: Sequence[int]) -> Request:
    """The call for some of its prompts alone.

    Args:
        request: Checked, with one list of conditions for each prompt.
        prompts: Indices.
    """
    videos = videos_of(prompts, request.num_videos_per_prompt)
    changes = {name: _entries(getattr(request, name), prompts) for name in BY_PROMPT}
    changes |= {name: _entries(getattr(request, name), videos) for name in BY_VIDEO}
    for name in ("decode_timestep", "decode_noise_scale"):
        changes[name] = _entries(per_video(request, name), videos)
    return request.replaced(**changes)


def in_order(parts: Sequence[Any], videos: Sequence[Sequence[int]]) -> Any:
    """The videos of all groups in the order of the call.

    Args:
        parts: Videos of each group: tensors or arrays (B, ...), or lists.
        videos: Their places in the call.
    """
    order = np.argsort([video for group in videos for video in group])
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))[torch.from_numpy(order).to(parts[0].device)]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)[order]
    together = [video for part in parts for video in part]
    return [together[index] for index in order]


def _entries(value: Any, indices: Sequence[int]) -> Any:
    """Some entries of a list or tensor; what stands for all as it is."""
    if isinstance(value, (list, tuple)):
        return [value[index] for index in indices]
    if isinstance(value, Tensor) and value.shape[0] > 1:
        return value[list(indices)]
    return value
