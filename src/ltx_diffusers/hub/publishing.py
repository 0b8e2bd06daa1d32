"""What `push_to_hub` of a model or pipeline does: check, save, upload."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.publishing import publishers
from .client import Hub
from .contents import CARD, COMPONENT, COMPONENT_CLASSES, LAYOUTS, NATIVE, PIPELINE, Contents
from .facts import CardFacts, check_facts
from .push import check_target, check_visibility, push_folder

# In the card that Diffusers writes for whatever is saved with push_to_hub=True.
_DIFFUSERS_CARD = "This model card has been automatically generated"


@publishers.register("model")
def push_model(
    model: Any,
    repository: str,
    *,
    layout: str = NATIVE,
    private: bool | None = None,
    token: str | None = None,
    safe_serialization: bool = True,
    variant: str | None = None,
    subfolder: str | None = None,
    facts: CardFacts | Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """Save a model or pipeline into a temporary folder and upload that. See `PublishesToHub.push_to_hub`.

    Args:
        model: The model.
        repository: Where to.
        layout: In which layout.
        private: Whether a new repository is private.
        token: A user token.
        safe_serialization: Must be True.
        variant: Of the weights' file names.
        subfolder: Folder in the repository.
        facts: What the card says.
        **options: As `push_folder` takes them.

    Returns:
        Address of the commit.

    Raises:
        InputError: If an argument can't be used, or the repository holds something of another kind.
        HubError: If the user has no right, or the Hub fails.
    """
    if not safe_serialization:
        raise InputError("pickles aren't uploaded", got="safe_serialization=False", expected=True)
    if layout not in LAYOUTS:
        raise InputError("unknown layout", got=repr(layout), expected=" or ".join(LAYOUTS))
    part, _ = COMPONENT_CLASSES.get(type(model).__name__, (None, None))
    contents = Contents(COMPONENT, NATIVE, part) if part else Contents(PIPELINE, NATIVE)
    stated = check_facts(facts, "facts") if isinstance(facts, Mapping) else facts
    hub = Hub(token)
    target = hub.look(hub.full_name(repository))
    check_target(hub, target, contents, layout, subfolder)
    check_visibility(target, private)
    hub.check_rights(target)
    with tempfile.TemporaryDirectory(prefix="ltx-diffusers-push-") as folder:
        model.save_pretrained(folder, variant=variant)
        upload = push_folder(
            folder,
            target.name,
            layout=layout,
            private=private,
            token=token,
            subfolder=subfolder,
            facts=stated,
            **options,
        )
    return upload.url or f"{hub.api.endpoint}/{target.name}/commit/{target.commit}"


@publishers.register("folder")
def push_saved(folder: str | os.PathLike, repository: str, **options: Any) -> str:
    """Upload the folder that Diffusers' `save_pretrained(push_to_hub=True)` has saved and put a card of its own into.

    Args:
        folder: The folder.
        repository: Where to.
        **options: As `push_folder` takes them.

    Returns:
        Address of the commit, or of the repository if it had all of it.

    Raises:
        InputError: If the repository holds something of another kind.
        HubError: If the user has no right, or the Hub fails.
    """
    card = Path(folder) / CARD
    general = card.is_file() and _DIFFUSERS_CARD in card.read_text(encoding="utf-8")
    upload = push_folder(folder, repository, card=True if general else None, **options)
    return upload.url or f"{Hub(options.get('token')).api.endpoint}/{upload.repository}"
