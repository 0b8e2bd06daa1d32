"""Errors: one message from its parts, and the kinds that callers catch."""

from __future__ import annotations

import pickle

import pytest

from ltx_diffusers.errors import (
    InputError,
    LTXError,
    MediaError,
    RegistrationError,
    TrainingError,
    UnknownNameError,
)


def test_a_message_has_the_parts_that_are_given() -> None:
    error = InputError("height is wrong", got=100, expected="a multiple of 32", fix="use 96")
    assert str(error) == "height is wrong; got 100; expected a multiple of 32; use 96"
    assert str(LTXError("no more to say")) == "no more to say"
    assert str(LTXError("too few", got=0)) == "too few; got 0"


@pytest.mark.parametrize(
    ("kind", "caught_as"),
    [
        (InputError, ValueError),
        (MediaError, InputError),
        (UnknownNameError, InputError),
        (RegistrationError, ValueError),
        (TrainingError, RuntimeError),
    ],
)
def test_errors_are_caught_as_their_kinds(kind: type[LTXError], caught_as: type[Exception]) -> None:
    with pytest.raises(caught_as):
        raise kind("wrong")
    assert issubclass(kind, LTXError)


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(MediaError("no such file", got="x.mp4", fix="check the name")))
    assert isinstance(error, MediaError)
    assert str(error) == "no such file; got x.mp4; check the name"
