"""Configs of training runs: strict, from YAML, with `key=value` overrides.

An unknown key is an error that names near keys; every weight and every probability is a value here.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError
from ..geometry import check_video_size

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of all configs: no unknown keys, no silent conversions of text to numbers, no later changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DataConfig(StrictModel):
    """Which clips: a registered data reader and its settings.

    Attributes:
        reader: Name of a registered data reader.
        height, width: Size of the clips in pixels.
        num_frames: Frames of a clip; a training stage may ask for another number.
        frame_rate: Frames per second that the clips are meant to be shown at.
        seed: Chooses the set.
        options: Further settings of the reader, such as the `path` of files.
        read_ahead: Steps whose clips are read while the model works, each in a thread. The clips are the same. For
            training a VAE only.
    """

    reader: str = "moving-shapes"
    height: int = 96
    width: int = 96
    num_frames: int = 17
    frame_rate: float = Field(default=8.0, gt=0)
    seed: int = Field(default=0, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)
    read_ahead: int = Field(default=0, ge=0)

    def model_post_init(self, _context: Any) -> None:
        """Check the size. Raises `InputError` naming the nearest valid one."""
        check_video_size(self.num_frames, self.height, self.width)


class OptimizerConfig(StrictModel):
    """Optimizer and learning rate.

    Attributes:
        name: "adamw"; "muon": orthogonalised momentum for matrices and convolutions, AdamW for the rest; AdamW with
            its two averages in few bits: "adamw-8bit", "adamw-4bit", "adamw-fp8" (torchao), "adamw-8bit-bnb",
            "adamw-8bit-paged-bnb" (bitsandbytes, paged on a GPU only).
        learning_rate: Peak rate. With "muon" the matrices get this rate, scaled so that an
            update's RMS matches AdamW's.
        adamw_learning_rate: Peak rate of what AdamW trains beside Muon; the same rate if None. It says nothing of runs
            without "muon", so that `optimizer.name=adamw` switches to `learning_rate` alone.
        offload: Keep the optimizer's state in the main memory and take its steps there. With "adamw" only.
        warmup_steps: Steps of linear warm-up.
        schedule: "cosine" falls to `final_share` of the peak at the last step, "constant" doesn't fall.
        gradient_clip: Largest norm of the gradient; 0 switches clipping off.
    """

    name: Literal[
        "adamw",
        "muon",
        "adamw-8bit",
        "adamw-4bit",
        "adamw-fp8",
        "adamw-8bit-bnb",
        "adamw-8bit-paged-bnb",
    ] = "muon"
    learning_rate: float = Field(default=5e-3, gt=0)
    adamw_learning_rate: float | None = Field(default=None, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    offload: bool = False
    warmup_steps: int = Field(default=50, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    final_share: float = Field(default=0.02, ge=0, le=1)
    gradient_clip: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _check_offload(self) -> OptimizerConfig:
        if self.offload and self.name != "adamw":
            raise ValueError(f"offload works with name 'adamw', not with {self.name!r}")
        return self


class BestConfig(StrictModel):
    """Which checkpoint of a run is its best.

    Attributes:
        figure: Name of a figure that the validation gives, such as "psnr" of the VAE or "held_out_loss" of the
            transformer.
        goal: Whether it is to be high or low.
        export: Make the finished model of the best checkpoint instead of the last step.
    """

    figure: str
    goal: Literal["highest", "lowest"]
    export: bool = False


class RunConfig(StrictModel):
    """What every training run has.

    Attributes:
        output: Folder of the run: checkpoints, logs, validation pictures and the finished model.
        seed: Seed of initial weights and of every random draw.
        precision: "fp32", or "bf16" for autocast with fp32 weights.
        accumulate: Passes that a step's batch is taken in, one after the other in each process, to need less memory.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
        compile: A backend of torch.compile ("inductor") for the models' repeated blocks; None doesn't compile.
        ema_decay: Decay of the moving average of the weights, which is what gets exported; 0 switches it off.
        checkpoint_every, keep_checkpoints: Steps between checkpoints, and how many to keep.
        best: Keep the best checkpoint, too. It is written at the validation that finds it; None doesn't look for it.
        validate_every: Steps between validations (pictures and figures); 0 for only the one at the end.
        log_every: Steps between log lines.
        loggers: Where figures go: "tensorboard" (into the run's `logs`), "wandb", "trackio". All can be left out.
        logger_options: By logger, arguments of its start: {"wandb": {"entity": ..., "tags": [...]}}.
        project: Project of the run, for loggers that have projects.
        peak_tflops: The machine's peak in 10^12 operations per second and process, which model FLOPs utilisation
            is the share of. None measures the rate of a large matrix product.
    """

    output: str
    seed: int = Field(default=0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = Field(default=1, gt=0)
    gradient_checkpointing: bool = False
    compile: str | None = None
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    checkpoint_every: int = Field(default=500, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    best: BestConfig | None = None
    validate_every: int = Field(default=500, ge=0)
    log_every: int = Field(default=20, gt=0)
    loggers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    logger_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    project: str = "ltx-diffusers"
    peak_tflops: float | None = Field(default=None, gt=0)
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _check_best(self) -> RunConfig:
        if self.best is not None and not self.validate_every:
            raise ValueError("best is found by validations during the run: validate_every must be positive")
        return self


def load_config(kind: type[ConfigT], path: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a config from YAML and apply overrides.

    Args:
        kind: The config class.
        path: YAML file.
        overrides: Assignments "key=value"; dots go into sections and lists ("stages.0.steps=10"), values are YAML.

    Raises:
        InputError: If the file can't be read, isn't a mapping, or a key or value isn't valid.
    """
    return parse_config(kind, override_values(read_values(path), overrides))


def read_values(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file, unchecked.

    Raises:
        InputError: If the file can't be read or isn't a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("can't read the config", got=path, fix=error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise InputError("the config is not a text file", got=path) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML", fix=str(error)) from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a mapping of keys to values", got=type(values).__name__)
    return values


def override_values(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply assignments "key=value" to values, in place; see `load_config`.

    Raises:
        InputError: If an assignment can't be read or its place isn't there.
    """
    for override in overrides:
        _assign(values, override)
    return values


def parse_config(kind: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """Validate a config that was read from elsewhere. Raises `InputError` naming the first bad key."""
    try:
        # JSON mode lets a YAML list stand for a tuple while text still doesn't pass for a number.
        return kind.model_validate_json(_to_json(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(first["loc"][-1]), _all_keys(kind), n=3)
            fix = f"did you mean {' or '.join(near)}?" if near else None
            raise InputError(f"unknown config key {key!r}", fix=fix) from None
        if first["type"] == "value_error":  # a check of ours, whose words say what was given
            where = f"config key {key!r}: " if key else ""
            raise InputError(f"{where}{first['ctx']['error']}") from None
        raise InputError(
            f"config key {key!r}: {first['msg']}", got=repr(first.get("input")), fix=_number_hint(first)
        ) from None


def build(kind: Callable[..., Any], settings: dict[str, Any], key: str) -> Any:
    """Build a component from the settings under a config key.

    Raises:
        InputError: If the component has no such setting; the message names near ones.
    """
    check_settings(settings, inspect.signature(kind).parameters, key)
    return kind(**settings)


def check_settings(settings: dict[str, Any], known: Iterable[str], key: str) -> None:
    """Check that all settings under a config key are known. Raises `InputError` naming near ones."""
    names = list(known)
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3)
            fix = f"did you mean {' or '.join(near)}?" if near else None
            raise InputError(f"unknown config key {f'{key}.{name}'!r}", fix=fix)


def load_part(kind: Any, folder: str, key: str, **options: Any) -> Any:
    """A model or pipeline from the folder under a config key.

    Raises:
        InputError: If there is no such folder, or no such model in it.
    """
    if not Path(folder).is_dir():
        raise InputError(f"config key {key!r}: no such folder", got=folder)
    try:
        return kind.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        raise InputError(
            f"config key {key!r}: {folder} can't be loaded", got=str(error).strip().partition("\n")[0][:300]
        ) from error


def share_of_batch(batch_size: int, shares: int) -> int:
    """Samples of a batch in each of its shares: one for each pass (`accumulate`) of each process.

    Raises:
        InputError: If they can't be even.
    """
    if batch_size % shares:
        raise InputError(
            "the batch size must be a multiple of the processes, or of processes x accumulate",
            got=f"{batch_size} for {shares}",
        )
    return batch_size // shares


def save_config(config: BaseModel, path: Path) -> None:
    """Write a config as YAML that `load_config` reads back."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    partial.replace(path)


def changed_settings(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Where two configs differ, one line for each key: "optimizer.learning_rate: 0.005 -> 0.002"."""
    lines = []
    for key in before | now:
        old, new = before.get(key), now.get(key)
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            old, new = dict(enumerate(old)), dict(enumerate(new))
        if isinstance(old, dict) and isinstance(new, dict):
            lines += changed_settings(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old} -> {new}")
    return lines


def _assign(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError("an override must have the form key=value", got=repr(override))
    *sections, last = key.split(".")
    target: Any = values
    try:
        for section in sections:
            target = target[int(section)] if isinstance(target, list) else target.setdefault(section, {})
        if isinstance(target, list):
            target[int(last)] = yaml.safe_load(text)
        else:
            target[last] = yaml.safe_load(text)
    except (ValueError, IndexError, TypeError, AttributeError):
        raise InputError("the config has no such place", got=repr(key)) from None
    except yaml.YAMLError:
        raise InputError("the value of an override must be YAML", got=repr(text)) from None


def _number_hint(error: Any) -> str | None:
    """YAML 1.1 takes numbers like 1e-3 for text."""
    text = error.get("input")
    if (
        error["type"] == "float_type"
        and isinstance(text, str)
        and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", text)
    ):
        return "YAML reads a number without a point, or without a sign in its exponent, as text; write 1.0e-3"
    return None


def _to_json(values: dict[str, Any]) -> str:
    try:
        return json.dumps(values)
    except TypeError as error:
        raise InputError("the config holds a value that isn't plain data", fix=str(error)) from None


def _all_keys(kind: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    pending: list[Any] = [kind]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys.update(annotation.model_fields)
            pending.extend(field.annotation for field in annotation.model_fields.values())
        else:
            pending.extend(getattr(annotation, "__args__", ()))
    return keys
