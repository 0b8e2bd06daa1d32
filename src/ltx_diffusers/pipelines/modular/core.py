"""How blocks run the steps of `LTXConditionPipeline` itself, so that both give the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.modular_pipelines import BlockState, ModularPipeline
from torch import Tensor

from ...denoising.conditions import Condition
from ...errors import InputError
from ..media import structure
from ..pipeline_ltx_condition import LTXConditionPipeline
from ..request import Request, with_defaults
from .parameters import COMPONENTS, DEFAULTS


class PipelineSteps(LTXConditionPipeline):
    """The pipeline, of whose components some may be missing, and whose steps are taken one at a time."""

    encoded_conditions: Sequence[Condition] = ()

    @property
    def _encodes_text(self) -> bool:
        return True  # that is for the block that encodes text to say, which may be someone else's

    def _conditions(self, request: Request, latents: Tensor | None, device: torch.device) -> list[Condition]:
        return list(self.encoded_conditions)


def steps_of(pipeline: ModularPipeline) -> PipelineSteps:
    """The steps on the components that a modular pipeline has; the others are None."""
    return PipelineSteps(**{name: getattr(pipeline, name, None) for name in COMPONENTS})


def request_of(steps: PipelineSteps, state: BlockState, *, fill: bool = True, **changes: Any) -> Request:
    """A block's inputs as a call of the pipeline.

    Args:
        steps: Of the components at hand.
        state: The block's inputs.
        fill: Whether to fill in the defaults of the components' configs.
        **changes: Arguments that aren't as the block's inputs say.
    """
    given = {name: value for name, value in state.as_dict().items() if name in DEFAULTS and value is not None}
    request = Request(**(DEFAULTS | given | changes))
    if not fill:
        return request
    configs = (getattr(steps, name) for name in ("transformer", "vae", "scheduler"))
    return with_defaults(request, *({} if part is None else part.config for part in configs))


def texts_given(state: BlockState) -> dict[str, Any]:
    """What texts a call is given: a prompt wins over features, which an earlier run may have left in the state."""
    if state.prompt is None or state.prompt_embeds is None:
        return {}
    features = ("prompt_embeds", "prompt_attention_mask")
    return dict.fromkeys((*features, *(f"negative_{name}" for name in features)))


def placeholders(batch_size: int) -> dict[str, Any]:
    """Texts for steps that only need to know how many there are."""
    return {"prompt": [""] * batch_size, "negative_prompt": None}


def check_one_structure(per_prompt: Sequence[Sequence[Any]]) -> None:
    """Check that the conditions of all prompts fit in one batch.

    Raises:
        InputError: If their kinds, frames or sizes differ. The pipeline runs such prompts in groups; blocks run
            one batch.
    """
    kinds = len({structure(entries) for entries in per_prompt})
    if kinds > 1:
        raise InputError(
            "blocks need conditions of the same kinds, frames and sizes for all prompts",
            got=f"{kinds} different lists",
            fix="make one call for each, or use LTXConditionPipeline",
        )
