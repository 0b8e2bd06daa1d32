"""A modular pipeline that holds the blocks and loads their components as our pipelines do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from diffusers.modular_pipelines import (
    ComponentsManager,
    LTXModularPipeline,
    ModularPipeline,
    ModularPipelineBlocks,
)

from ...errors import InputError
from ...integration import register
from ...models.recorded import with_recorded
from ..base import LTXPipelineBase
from ..lora import LTXLoraMixin
from ..release import COMPONENTS, LIBRARY, OWN_CLASSES, inferred_settings, own_classes
from .assembled import LTXConditionBlocks

register()

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
"""Arguments that say how an index is fetched."""


class LTXConditionModularPipeline(LTXLoraMixin, LTXModularPipeline):
    """`LTXConditionBlocks`, or blocks composed with them, with their components.

    It is Diffusers' `LTXModularPipeline` with our blocks and classes: blocks of either find here what they ask for,
    and LoRAs load as into our other pipelines.

    Args:
        blocks: The blocks; `LTXConditionBlocks` if None.
        pretrained_model_name_or_path: Where components are loaded from, by `load_components()`.
        components_manager: Diffusers' manager of components that several pipelines share.
        collection: Their name in the manager.
        **kwargs: As for Diffusers' class.

    Example:
        >>> pipe = LTXConditionModularPipeline.from_pretrained("Lightricks/LTX-Video-0.9.7-dev")
        >>> pipe.load_components(dtype=torch.bfloat16)
        >>> videos = pipe(prompt="a red kite over the sea", image=picture, output="videos")
    """

    def __init__(
        self,
        blocks: ModularPipelineBlocks | None = None,
        pretrained_model_name_or_path: str | Path | None = None,
        components_manager: ComponentsManager | None = None,
        collection: str | None = None,
        **kwargs: Any,
    ) -> None:
        source = None if pretrained_model_name_or_path is None else str(pretrained_model_name_or_path)
        blocks = LTXConditionBlocks() if blocks is None else blocks
        super().__init__(blocks, source, components_manager, collection, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        blocks: ModularPipelineBlocks | None = None,
        components_manager: ComponentsManager | None = None,
        collection: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """A pipeline for a saved model, ours or in Diffusers' LTX layout; `load_components()` then loads it.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the Hub.
            blocks: The blocks; `LTXConditionBlocks` if None. A pipeline that was saved with blocks of its own needs
                them here, since code isn't saved.
            components_manager: See the class.
            collection: See the class.
            **kwargs: `workflow` of the blocks; `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            InputError: If it isn't an LTX-Video pipeline, or was saved with other blocks and none are given.
            OSError: If there is no such pipeline.
        """
        hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        modular, index = cls._load_pipeline_config(str(pretrained_model_name_or_path), **hub)
        saved = None if modular is None else modular.get("_blocks_class_name")
        if blocks is None and saved not in (None, LTXConditionBlocks.__name__):
            raise InputError(
                f"{pretrained_model_name_or_path} was saved with blocks of its own, and code isn't saved",
                got=saved,
                fix="pass blocks",
            )
        pipeline = cls(
            blocks,
            pretrained_model_name_or_path,
            components_manager,
            collection,
            modular_config_dict=modular,
            config_dict=index,
            **kwargs,
        )
        if index is not None and "revision" in hub:
            for spec in pipeline._component_specs.values():
                spec.revision = hub["revision"]
        return pipeline

    @classmethod
    def from_pipe(
        cls, pipeline: LTXPipelineBase | ModularPipeline, blocks: ModularPipelineBlocks | None = None
    ) -> Self:
        """A modular pipeline with the components of a loaded one; nothing is copied.

        Args:
            pipeline: Any of our pipelines, modular or not.
            blocks: The blocks; `LTXConditionBlocks` if None.
        """
        made = cls(blocks)
        made.update_components(
            **{name: part for name, part in pipeline.components.items() if name in made.component_names}
        )
        return made

    @classmethod
    def _load_pipeline_config(cls, *args: Any, **kwargs: Any) -> tuple[dict | None, dict | None]:
        """The index of a saved pipeline, modular or not, with our classes in it."""
        modular, index = super()._load_pipeline_config(*args, **kwargs)
        if index is not None:
            index = own_classes(index)
            for name in COMPONENTS:
                library, class_name = (index.get(name) or (None, None))[:2]
                if library != LIBRARY or class_name not in OWN_CLASSES.values():
                    raise InputError(
                        f"{args[0]} isn't an LTX-Video pipeline: its {name} can't be used",
                        got=class_name or "none",
                        fix="give a folder or repository with LTX-Video in Diffusers' layout",
                    )
        return modular, index

    def load_components(
        self, names: list[str] | str | None = None, workflow: str | None = None, **kwargs: Any
    ) -> None:
        """Load components, with the settings of the release that Diffusers' configs don't state.

        Args:
            names: Which; all that have a source and aren't loaded if None.
            workflow: Load what this workflow of the blocks needs.
            **kwargs: `dtype` and others of `from_pretrained`; see Diffusers' method.
        """
        before = {name: getattr(self, name, None) for name in COMPONENTS}
        super().load_components(names, workflow, **kwargs)
        loaded = [name for name in COMPONENTS if getattr(self, name, None) is not before[name]]
        saved = {name: self._saved_config(name) for name in loaded if name != "vae"}
        if saved and getattr(self, "vae", None) is not None:
            inferred_settings(self, saved)

    def _saved_config(self, name: str) -> dict[str, Any]:
        """A component's config as it was saved."""
        spec = self._component_specs[name]
        source = spec.pretrained_model_name_or_path
        config = type(getattr(self, name)).load_config(
            source, subfolder=spec.subfolder, revision=spec.revision
        )
        return with_recorded(config)
