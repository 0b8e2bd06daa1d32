"""Uploading a model's folder to the Hub: checked first, in one commit, and resumable.

Large files go to the Hub's storage first and become visible with the commit, all at once or not at all. What a failed
upload has brought there is found again by its hash, so that running it again sends the rest only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError
from .cards import make_card
from .client import Hub, Repository, describe_repository
from .contents import (
    CARD,
    EMPTY,
    LAYOUTS,
    LORA,
    NATIVE,
    OFFICIAL,
    SINGLE_FILE,
    Contents,
)
from .facts import CardFacts, front_matter, gather
from .layouts import Files, ModelFolder, read_folder
from .prepared import converted_name, model_files
from .sending import Sender


@dataclass(frozen=True)
class Upload:
    """What an upload does, or has done.

    Attributes:
        repository: `owner/name`.
        what: Kind and layout of what is there then, in words.
        url: Address of the commit; None if nothing was uploaded.
        new: Files that the repository didn't have so, with their sizes in bytes.
        unchanged: Files that it had already.
        removed: Files of an earlier upload that would be mixed up with these: shards of weights that are now others.
        left_out: Files of the folder that don't belong to the model.
        card: Content of the card that was made; None if none was.
        notes: What the author should know.
    """

    repository: str
    what: str
    url: str | None
    new: dict[str, int]
    unchanged: tuple[str, ...]
    removed: tuple[str, ...]
    left_out: tuple[str, ...]
    card: str | None
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of the new files."""
        return sum(self.new.values())


def push_folder(
    folder: str | Path,
    repository: str,
    *,
    layout: str | None = None,
    private: bool | None = None,
    card: bool | None = None,
    facts: CardFacts | None = None,
    dry_run: bool = False,
    subfolder: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> Upload:
    """Upload a model or a LoRA. Everything that can be checked is checked before anything is converted or sent.

    Args:
        folder: Folder of a saved pipeline, of one component, of a LoRA, or of official single files.
        repository: `owner/name`, or a name of one's own; made if there is none.
        layout: "native" (as `save_pretrained` of this library), "diffusers" (loads with Diffusers alone) or "official"
            (a single file). None: as the folder is.
        private: Whether a new repository is private; None is the account's default.
        card: True makes a model card, False leaves the card alone; None takes README.md of the folder, or leaves the
            repository's, or else makes one.
        facts: What the card says; overrides the folder's `card.yaml`.
        dry_run: Only find out what would be done. The Hub is asked, nothing is changed.
        subfolder: Folder in the repository to put the model into, without a card.
        message: Of the commit.
        create_pr: Whether to open a pull request instead of committing.
        token: A user token; None is that of `hf auth login`, or HF_TOKEN.

    Raises:
        InputError: If the folder or the name can't be used, or the repository holds something of another kind.
        CheckpointError: If the weights are damaged, or the layout can't hold them.
        HubError: If the user has no right, or the Hub fails; running it again goes on.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError("unknown layout", got=repr(layout), expected=" or ".join(LAYOUTS))
    model = read_folder(folder)
    asked, layout = layout, layout or model.contents.layout or NATIVE
    if model.contents.kind == LORA:
        _check_effect(model)
    hub = Hub(token)
    target = hub.look(hub.full_name(repository))
    check_target(hub, target, model.contents, layout, subfolder)
    check_visibility(target, private)
    hub.check_rights(target)

    new_file = converted_name(model, asked, layout, target.name)
    files, made_card, notes = _card(hub, target, model, layout, False if subfolder else card, facts, new_file)
    what = model.contents.in_layout(layout)
    with model_files(model, layout, new_file) as weights:
        sender = Sender(
            hub,
            _placed(weights | files, subfolder),
            private=private,
            message=message or f"Upload {what} with ltx-diffusers",
            create_pr=create_pr,
        )
        plan = sender.plan(target)
        upload = Upload(
            repository=target.name,
            what=what,
            url=None,
            new={each.path_in_repo: each.upload_info.size for each in plan.additions},
            unchanged=plan.unchanged,
            removed=plan.deletions,
            left_out=model.left_out,
            card=made_card,
            notes=notes,
        )
        return upload if dry_run else replace(upload, url=sender.send(target, plan))


def check_target(hub: Hub, target: Repository, model: Contents, layout: str, subfolder: str | None) -> None:
    """Refuse a repository that holds something else, so that nothing gets mixed up.

    Args:
        hub: The Hub.
        target: The repository.
        model: What is to be uploaded.
        layout: In which layout.
        subfolder: Folder in the repository that it goes to; what lies elsewhere doesn't matter then.

    Raises:
        InputError: If the repository is a data set or a Space, or holds a model of another kind or layout.
    """
    if not target.exists:
        other = hub.other_kind(target.name)
        if other is not None:
            raise InputError(
                f"{target.name} is a {other} on the Hub, not a model",
                fix="choose another name, or make a model repository of this name first",
            )
        return
    prefix = f"{subfolder}/" if subfolder else ""
    names = [name.removeprefix(prefix) for name in target.files if name.startswith(prefix)]
    there = describe_repository(hub, target, names, prefix)
    if there.kind == EMPTY or (there.kind == model.kind == LORA):
        return
    if model.kind == LORA or layout == OFFICIAL:
        same = there.kind == (LORA if model.kind == LORA else SINGLE_FILE)
    else:
        same = (there.kind, there.layout, there.part) == (model.kind, layout, model.part)
    if not same:
        fix = "choose another repository, or remove its files first"
        if (there.kind, there.part) == (model.kind, model.part) and there.layout in LAYOUTS:
            fix = f"choose another repository, or --layout {there.layout}"
        raise InputError(
            f"{target.name} holds something of another kind",
            got=f"{there.seen} there",
            expected=f"{model.in_layout(layout)}, as it is to be uploaded",
            fix=fix,
        )


def check_visibility(target: Repository, private: bool | None) -> None:
    """Refuse to show in public what is meant to be private.

    Args:
        target: The repository.
        private: What was asked for.

    Raises:
        InputError: If it exists and is public.
    """
    if private and target.exists and not target.private:
        raise InputError(
            f"{target.name} is public, and only a new repository can be made private",
            fix="choose another name, or make it private in its settings",
        )


def _check_effect(model: ModelFolder) -> None:
    """A LoRA must do something."""
    from ..conversion.lora.files import read_lora
    from ..conversion.lora.report import check_effect, describe_lora

    check_effect(describe_lora(read_lora(model.path)), str(model.path))


def _card(
    hub: Hub,
    target: Repository,
    model: ModelFolder,
    layout: str,
    wanted: bool | None,
    facts: CardFacts | None,
    new_file: str | None,
) -> tuple[Files, str | None, tuple[str, ...]]:
    """The card and its samples as files, the card's text if it was made, and notes about it."""
    own = model.files.get(CARD)
    taken = "the folder has a card" if own else "the repository has a card" if CARD in target.files else None
    if wanted is False or (wanted is None and taken):
        if facts is not None:
            raise InputError(
                f"{taken or 'no card is wanted'}, so what is given for a card isn't used", fix="add --card"
            )
        if wanted is False or own is None:
            return {}, None, ()
        front_matter(own)  # refused before anything is sent, if it can't be read
        converted = layout != (model.contents.layout or layout)
        notes = (f"the folder's card is uploaded as it is; --card makes one for the {layout} layout",)
        return {CARD: own}, None, notes if converted else ()
    gathered = gather(model, facts)
    base = gathered.facts.base_model
    inherited = hub.license_of(base) if base and gathered.facts.license is None else None
    made = make_card(model, target.name, layout, gathered, inherited=inherited, file=new_file)
    samples: Files = {name: sample.path for name, sample in gathered.samples.items()}
    return {CARD: made.text.encode(), **samples}, made.text, made.notes


def _placed(files: Files, subfolder: str | None) -> Files:
    return {f"{subfolder}/{name}" if subfolder else name: source for name, source in files.items()}
