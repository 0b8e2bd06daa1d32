"""`push_to_hub` of models and pipelines. What it does lies in `hub`, which is found by name when it is first called."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..registry import Registry

publishers: Registry[Callable[..., str]] = Registry("publisher", builtins=("ltx_diffusers.hub.publishing",))
"""How a model ("model") and the folder of a saved one ("folder") get to the Hub."""


class PublishesToHub:
    """Diffusers' `push_to_hub` with a real model card and in one commit; stands before Diffusers' classes as a base."""

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        *,
        layout: str = "native",
        card: bool | None = None,
        facts: Any = None,
    ) -> str:
        """Upload this model or pipeline. The call is that of Diffusers, with three more arguments.

        Rights and the repository's kind are checked before anything is saved. All files appear with one commit; after a
        failure the same call goes on where it stopped.

        Args:
            repo_id: `owner/name`, or a name of one's own; made if there is none.
            commit_message: Of the commit.
            private: Whether a new repository is private; None is the account's default.
            token: A user token; None is that of `hf auth login`, or HF_TOKEN.
            create_pr: Whether to open a pull request instead of committing.
            safe_serialization: Must be True: pickles aren't uploaded.
            variant: Of the weights' file names, such as "fp16".
            subfolder: Folder in the repository, without a card.
            layout: "native" (as `save_pretrained` of this library), "diffusers" (loads with Diffusers alone) or
                "official" (a single file).
            card: True makes a model card, False leaves the card alone; None makes one if the repository has none.
            facts: What the card says, a `hub.facts.CardFacts` or a dict of its fields.

        Returns:
            Address of the commit, or of the pull request.

        Raises:
            InputError: If the name can't be used, or the repository holds something of another kind.
            CheckpointError: If the layout can't hold the model.
            HubError: If the user has no right, or the Hub fails.
        """
        return publishers.get("model")(
            self,
            repo_id,
            message=commit_message,
            private=private,
            token=token,
            create_pr=create_pr,
            safe_serialization=safe_serialization,
            variant=variant,
            subfolder=subfolder,
            layout=layout,
            card=card,
            facts=facts,
        )

    def _upload_folder(
        self,
        working_dir: str | os.PathLike,
        repo_id: str,
        token: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
    ) -> str:
        """What Diffusers' `save_pretrained(push_to_hub=True)` calls with the saved folder."""
        return publishers.get("folder")(
            working_dir,
            repo_id,
            token=token,
            message=commit_message,
            create_pr=create_pr,
            subfolder=subfolder,
        )
