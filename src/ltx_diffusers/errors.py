"""The library's errors. Every message says what is wrong, what was given, what is valid, and what to do.

This module imports nothing heavy: the command line catches `LTXError` before torch is loaded.
"""

from __future__ import annotations


class LTXError(Exception):
    """Base of every error that this library raises on purpose; the command line prints it as one line.

    Args:
        what: What is wrong, in a few words.
        got: The offending value.
        expected: What would be valid.
        fix: What the user can do about it.
    """

    def __init__(
        self, what: str, *, got: object = None, expected: object = None, fix: str | None = None
    ) -> None:
        parts = [what]
        if got is not None:
            parts.append(f"got {got}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if fix is not None:
            parts.append(fix)
        super().__init__("; ".join(parts))


class InputError(LTXError, ValueError):
    """A value given by the user can't be used. A `ValueError`, so that code written for Diffusers catches it."""


class MediaError(InputError):
    """An image or video file is missing, unreadable or of an unusable kind."""


class CheckpointError(InputError):
    """A checkpoint file that can't be used: damaged, hostile, incomplete, or of an unknown kind."""


class HubError(LTXError, RuntimeError):
    """The Hub refused or failed: no right, a conflict, a broken connection. The message never shows a token."""


class UnknownNameError(InputError):
    """A name stands for nothing registered or found; the message lists near names."""


class RegistrationError(LTXError, ValueError):
    """A plugin can't be registered: its name is taken or the object isn't of the registry's kind."""


class TrainingError(LTXError, RuntimeError):
    """Training can't go on, for example because a loss became infinite or NaN."""


class TrainingStopped(TrainingError):
    """Training was asked to stop by a signal, and did so with a checkpoint.

    Args:
        what: What happened.
        exit_code: The exit code of a process that this signal ends: 128 and its number.
        fix: How to go on.
    """

    def __init__(self, what: str, exit_code: int, fix: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.exit_code = exit_code
