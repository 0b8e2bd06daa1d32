"""What every command shares: exit codes, one-line errors, versions, help."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest

from ltx_diffusers import __version__
from ltx_diffusers.cli import app
from ltx_diffusers.errors import InputError


def raising(error: BaseException):
    def command() -> None:
        """Fail."""
        raise error

    return command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Puts a function in place of the command `plugins`."""
    from ltx_diffusers.cli import plugins

    return lambda function: monkeypatch.setattr(plugins, "command", function)


def test_bad_input_is_one_line_and_exit_code_2(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(InputError("height must be a multiple of 32", got=100, fix="use 96\nor 128")))
    assert app.main(["plugins"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: height must be a multiple of 32; got 100; use 96 or 128\n"
    assert captured.out == ""


def test_verbose_shows_the_traceback(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(InputError("bad")))
    assert app.main(["-v", "plugins"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("error: bad\n")


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [(["nonsense"], "nonsense"), (["--nonsense"], "--nonsense"), (["plugins", "--nonsense"], "--nonsense")],
)
def test_unknown_commands_and_options_are_bad_input(
    arguments: list[str], mentioned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert mentioned in error
    assert error.count("\n") == 1


def test_a_value_outside_the_choices_is_said_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["evaluate", "shapes", "--only", "t2x"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: Invalid value for '--only': 't2x' is not one of 't2v', "
    )


def test_an_interrupt_is_130(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(raising(KeyboardInterrupt()))
    assert app.main(["plugins"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_an_unexpected_error_is_1_and_says_how_to_see_more(
    command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(ZeroDivisionError("division by zero")))
    assert app.main(["plugins"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ZeroDivisionError: division by zero")
    assert "-v" in error
    assert error.count("\n") == 1


def test_warnings_are_one_line(command, capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        warnings.warn("the prompt\nwas cut", UserWarning, stacklevel=1)

    command(warn)
    assert app.main(["plugins"]) == 0
    assert capsys.readouterr().err == "warning: the prompt was cut\n"


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"ltx-diffusers {__version__} (diffusers ")
    assert app.main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("generate", "reconstruct", "info", "plugins", "train", "evaluate"))


def test_python_dash_m_passes_the_exit_code_on() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ltx_diffusers", "nonsense"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_plugins_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["plugins"]) == 0
    assert "first-frame" in capsys.readouterr().out
    assert app.main(["plugins", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert {"registry": "schedules", "name": "uniform"}.items() <= {
        key: value
        for entry in entries
        if (entry["registry"], entry["name"]) == ("schedules", "uniform")
        for key, value in entry.items()
    }.items()
