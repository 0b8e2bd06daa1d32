"""Scheduler configs of Diffusers and of the official package, as configs of `LTXFlowMatchScheduler` and back.

Both sides describe the same few schedules in other words. What ours can't express, or they can't, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..models.recorded import RECORD

DIFFUSERS_CLASS = "FlowMatchEulerDiscreteScheduler"
OFFICIAL_CLASS = "RectifiedFlowScheduler"
OWN_CLASS = "LTXFlowMatchScheduler"

# Keys that mean the same in Diffusers' config and in ours, with Diffusers' defaults.
_DIFFUSERS_SHARED = {
    "num_train_timesteps": 1000,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "stochastic_sampling": False,
}
_DIFFUSERS_UNSUPPORTED = ("invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

_OFFICIAL_SCHEDULES = {
    "Uniform": "uniform",
    "LinearQuadratic": "linear-quadratic",
    "Constant": "constant-shift",
}
_OFFICIAL_SHIFTS = {None: None, "SD3": "sd3", "SimpleDiffusion": "simple-diffusion"}
# The official code has SD3's line as constants, in no config.
_OFFICIAL_LINE = {
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "base_shift": 0.95,
    "max_shift": 2.05,
}


def own_config(config: Mapping[str, Any], own_class: str) -> dict[str, Any]:
    """Our config for a scheduler config of ours, of Diffusers or of the official package.

    They are told apart by `_class_name`, which saved configs have, or else by a field that only one of them
    has.

    Args:
        config: The config.
        own_class: Name of the class that reads it.

    Raises:
        InputError: If it belongs to another scheduler class, or asks for something that ours lacks.
    """
    class_name = config.get("_class_name")
    if class_name is None:
        marks = {"use_dynamic_shifting": DIFFUSERS_CLASS, "sampler": OFFICIAL_CLASS}
        class_name = next((name for key, name in marks.items() if key in config), own_class)
    if class_name == DIFFUSERS_CLASS:
        return _recorded(config) or from_diffusers(config)
    if class_name == OFFICIAL_CLASS:
        return from_official(config)
    if class_name not in (own_class, OWN_CLASS):
        raise InputError(
            "this scheduler config can't be used for LTX-Video",
            got=class_name,
            expected=f"{own_class}, {DIFFUSERS_CLASS} or {OFFICIAL_CLASS}",
        )
    return dict(config)


def from_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our config for one of Diffusers' `FlowMatchEulerDiscreteScheduler`.

    The schedule is the one that Diffusers' LTX pipelines run with that config: uniform sigmas from 1 to 1/N,
    shifted and stretched. (Left alone, without sigmas, Diffusers' class goes from 1 to 0.001 instead.)

    Raises:
        InputError: If it asks for Karras, exponential, beta or inverted sigmas, or for the linear kind of
            shift.
    """
    for key in _DIFFUSERS_UNSUPPORTED:
        if config.get(key):
            raise InputError(f"{OWN_CLASS} has no {key}", got=config[key], expected=False)
    if config.get("time_shift_type", "exponential") != "exponential":
        raise InputError(
            f"{OWN_CLASS} has only one time_shift_type",
            got=config["time_shift_type"],
            expected="'exponential'",
        )
    own = {key: config.get(key, default) for key, default in _DIFFUSERS_SHARED.items()}
    own["schedule"] = "uniform"
    own["shifting"] = "sd3" if config.get("use_dynamic_shifting") else None
    # Diffusers reads 0 as "no stretch".
    own["shift_terminal"] = config.get("shift_terminal") or None
    shift = config.get("shift", 1.0)
    if own["shifting"] is None and shift != 1.0:
        own.update(schedule="constant-shift", schedule_options={"shift": shift})
    return own


def to_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of Diffusers' `FlowMatchEulerDiscreteScheduler` for one of ours.

    Raises:
        InputError: If Diffusers' class can't express the schedule (linear-quadratic, simple diffusion, a
            plugin's).
    """
    options = config["schedule_options"] or {}
    if config["schedule"] not in ("uniform", "constant-shift"):
        raise InputError(f"{DIFFUSERS_CLASS} can't express this schedule", got=config["schedule"])
    if config["shifting"] == "simple-diffusion" or (config["shifting"] == "sd3" and config["clamp_shift"]):
        raise InputError(
            f"{DIFFUSERS_CLASS} can't express this shift",
            got=f"shifting={config['shifting']!r}, clamp_shift={config['clamp_shift']}",
        )
    shift = options.get("shift", 1.0)
    if config["shifting"] == "sd3" and shift != 1.0:
        raise InputError(
            f"{DIFFUSERS_CLASS} can't shift both by a constant and by resolution", got=f"shift {shift}"
        )
    return {
        "_class_name": DIFFUSERS_CLASS,
        **{key: config[key] for key in _DIFFUSERS_SHARED},
        "shift": shift,
        "use_dynamic_shifting": config["shifting"] == "sd3",
        "shift_terminal": config["shift_terminal"],
    }


def to_recorded_diffusers(config: Mapping[str, Any]) -> dict[str, Any]:
    """As `to_diffusers`, with our whole config recorded in it, for `own_config` to give back.

    For a linear-quadratic schedule, which Diffusers' class lacks, it is the plain uniform one that Diffusers' own
    repositories of 0.9.5 and later have: the pipeline there that is right for these releases,
    `LTXConditionPipeline`, brings its linear-quadratic steps along.

    Raises:
        InputError: If Diffusers' class can't express another part of the schedule.
    """
    stand_in = dict(config)
    if stand_in["schedule"] == "linear-quadratic":
        stand_in |= {"schedule": "uniform", "schedule_options": None}
    own = {name: value for name, value in config.items() if not name.startswith("_")}
    return to_diffusers(stand_in) | {RECORD: own}


def _recorded(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config of ours recorded in one of Diffusers', or None if there is none or the rest was changed since."""
    record = config.get(RECORD)
    if not isinstance(record, Mapping):
        return None
    try:
        described = to_recorded_diffusers(record)
    except (KeyError, InputError):  # not written by this library
        return None
    unchanged = all(config.get(name) == value for name, value in described.items() if name != RECORD)
    return dict(record) if unchanged else None


def from_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """Our config for one of the official `RectifiedFlowScheduler`, as stored in released files' metadata.

    Raises:
        InputError: If a value is unknown, or a constant schedule comes without its shift.
    """
    sampler, shifting = config.get("sampler", "Uniform"), config.get("shifting")
    for key, value, known in (
        ("sampler", sampler, _OFFICIAL_SCHEDULES),
        ("shifting", shifting, _OFFICIAL_SHIFTS),
    ):
        if value not in known:
            raise InputError(
                f"unknown {key} in an official scheduler config", got=repr(value), expected=list(known)
            )
    own: dict[str, Any] = {
        **_OFFICIAL_LINE,
        "num_train_timesteps": config.get("num_train_timesteps", 1000),
        "schedule": _OFFICIAL_SCHEDULES[sampler],
        "shifting": _OFFICIAL_SHIFTS[shifting],
        # The official code stretches only together with SD3's shift.
        "shift_terminal": config.get("target_shift_terminal") if shifting == "SD3" else None,
    }
    if shifting == "SimpleDiffusion":
        own["base_image_seq_len"] = config.get("base_resolution", 1024)
    if sampler == "Constant":
        if config.get("shift") is None:
            raise InputError(
                "an official scheduler config with sampler 'Constant' must have a shift", got=None
            )
        own["schedule_options"] = {"shift": math.exp(config["shift"])}
    return own


def to_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """The official `RectifiedFlowScheduler`'s config for one of ours, to be stored in a file's metadata.

    Raises:
        InputError: If the official class can't express the schedule.
    """
    options = dict(config["schedule_options"] or {})
    samplers = {ours: theirs for theirs, ours in _OFFICIAL_SCHEDULES.items()}
    shifts = {ours: theirs for theirs, ours in _OFFICIAL_SHIFTS.items()}
    shift = options.pop("shift", 1.0)
    line = {key: config[key] for key in _OFFICIAL_LINE}
    if config["schedule"] not in samplers or options:
        raise InputError(
            f"{OFFICIAL_CLASS} can't express this schedule", got=f"{config['schedule']} {options}"
        )
    if config["shifting"] == "sd3" and (line != _OFFICIAL_LINE or config["clamp_shift"]):
        raise InputError(f"{OFFICIAL_CLASS} can't express this shift", got=line, expected=_OFFICIAL_LINE)
    if config["shift_terminal"] is not None and config["shifting"] != "sd3":
        raise InputError(
            f"{OFFICIAL_CLASS} stretches only with SD3's shift",
            got=f"shift_terminal {config['shift_terminal']}",
        )
    official = {
        "_class_name": OFFICIAL_CLASS,
        "num_train_timesteps": config["num_train_timesteps"],
        "sampler": samplers[config["schedule"]],
        "shifting": shifts[config["shifting"]],
        "target_shift_terminal": config["shift_terminal"],
    }
    if config["shifting"] == "simple-diffusion":
        official["base_resolution"] = config["base_image_seq_len"]
    if config["schedule"] == "constant-shift":
        official["shift"] = math.log(shift)
    return official
