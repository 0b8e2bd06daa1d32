"""What a finished LoRA says of itself: `card.yaml`, which its model card is made from (`hub.facts.CardFacts`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..geometry import VideoSize
from .transformer_config import TransformerTrainConfig

CARD_FACTS = "card.yaml"


def write_card_facts(
    folder: Path,
    config: TransformerTrainConfig,
    sizes: Sequence[VideoSize],
    prompts: Sequence[str],
    repository: str | None,
    trigger: str | None,
) -> None:
    """Write `card.yaml` into the folder of a LoRA.

    Args:
        folder: The LoRA's; its samples are in `samples`.
        config: Settings of the run; paths are left out.
        sizes: Of the clips that it was trained on, in frames and pixels.
        prompts: Of its samples.
        repository: Repository of the base model, if it came from one.
        trigger: What all captions began with, if there was something.
    """
    adapter = config.adapter.model_dump(mode="json", exclude_none=True)
    optimizer = {"name": config.optimizer.name, "learning_rate": config.optimizer.learning_rate}
    facts: dict[str, Any] = {
        "base_model": repository,
        "prompt": prompts[0] if prompts else None,
        "trigger": trigger,
        "tags": ["dora"] if config.adapter.dora else [],
        "training": {
            "steps": config.steps,
            "batch_size": config.batch_size,
            "adapter": adapter,
            "optimizer": optimizer,
            "sizes": [list(size) for size in sizes],
            "conditions": config.conditions.model_dump(mode="json", exclude_defaults=True),
            "seed": config.seed,
        },
        "samples": {
            f"samples/{path.name}": prompt
            for path, prompt in zip(sorted((folder / "samples").glob("*.mp4")), prompts, strict=False)
        },
    }
    known = {key: value for key, value in facts.items() if value}
    (folder / CARD_FACTS).write_text(yaml.safe_dump(known, sort_keys=False, allow_unicode=True), "utf-8")
