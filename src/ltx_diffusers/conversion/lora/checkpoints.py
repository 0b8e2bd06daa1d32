"""The transformer of a checkpoint, as what LoRAs are compared with, merged into and extracted from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..describe import Part, describe
from ..tensors import TensorSource, open_tensors

PIPELINE_FILE = "model_index.json"


@dataclass(frozen=True)
class OpenTransformer:
    """A transformer whose parameters can be loaded one by one, by our names."""

    source: TensorSource
    part: Part

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its parameters."""
        return {name: self.source.info(stored).shape for name, stored in self.part.names.items()}

    def load(self, name: str) -> Tensor:
        """One parameter; fp8 values with a scale of their own are multiplied with it, in float32."""
        tensor = self.source.load(self.part.names[name])
        scale = self.part.scales.get(name)
        if scale is None:
            return tensor
        factors = self.source.load(scale).float()  # one for all, or one for each output
        return tensor.float() * factors.reshape(-1, *(1,) * (tensor.ndim - 1))


@contextmanager
def open_transformer(path: str | Path, *, allow_pickle: bool = False) -> Iterator[OpenTransformer]:
    """Open the transformer of a single file, of its own folder or of a pipeline's.

    Raises:
        CheckpointError: If there is none, or the file is damaged.
    """
    path = Path(path).expanduser()
    if (path / PIPELINE_FILE).is_file():
        path = path / "transformer"
    with open_tensors(path, allow_pickle=allow_pickle) as source:
        # Which release it is doesn't matter here: names and shapes are the same.
        yield OpenTransformer(source, describe(source, undecided_ok=True).part("transformer"))
