"""What a finished LoRA says of itself: `card.yaml`, which its model card is made from (`hub.facts.CardFacts`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .transformer_config import TransformerTrainConfig
from .validation_videos import ValidationVideos

CARD_FACTS = "card.yaml"


def write_card_facts(
    folder: Path, config: TransformerTrainConfig, videos: ValidationVideos, repository: str | None
) -> None:
    """Write `card.yaml` into the folder of a LoRA.

    Args:
        folder: The LoRA's; its samples are in `samples`.
        config: Settings of the run; paths are left out.
        videos: Its samples' prompts.
        repository: Repository of the base model, if it came from one.
    """
    adapter = config.adapter.model_dump(mode="json", exclude_none=True)
    optimizer = {"name": config.optimizer.name, "learning_rate": config.optimizer.learning_rate}
    facts: dict[str, Any] = {
        "base_model": repository,
        "prompt": videos.prompts[0] if videos.prompts else None,
        "tags": ["dora"] if config.adapter.dora else [],
        "training": {
            "steps": config.steps,
            "batch_size": config.batch_size,
            "adapter": adapter,
            "optimizer": optimizer,
            "sizes": [list(bucket.size) for bucket in config.buckets]
            or [[config.data.num_frames, config.data.height, config.data.width]],
            "conditions": config.conditions.model_dump(mode="json", exclude_defaults=True),
            "seed": config.seed,
        },
        "samples": {
            f"samples/{path.name}": prompt
            for path, prompt in zip(sorted((folder / "samples").glob("*.mp4")), videos.prompts, strict=False)
        },
    }
    if config.caption_prefix:
        facts["training"]["caption_prefix"] = config.caption_prefix
    known = {key: value for key, value in facts.items() if value}
    (folder / CARD_FACTS).write_text(yaml.safe_dump(known, sort_keys=False, allow_unicode=True), "utf-8")
