"""LoRAs loaded from repositories, through the Hub's client."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.hub_server import HubServer
from helpers.loras import adapted_transformer, largest_error, output, pipeline, some_lora

from ltx_diffusers.conversion.lora.files import write_lora
from ltx_diffusers.errors import InputError


@pytest.fixture
def contents(tmp_path: Path) -> dict[str, bytes]:
    """Files of a repository: PEFT's at the top, two in a folder."""
    folder = tmp_path / "repo"
    write_lora(some_lora("patterns"), folder, "peft")
    write_lora(some_lora(), folder / "sub" / "comfy.safetensors", "comfy")
    write_lora(some_lora(seed=2), folder / "sub" / "other.safetensors", "kohya")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def loaded(*arguments: object, **options: object) -> object:
    pipe = pipeline()
    pipe.load_lora_weights(*arguments, **options)
    return output(pipe.transformer)


def test_the_lora_of_a_repository_is_found_with_its_description(
    hub: HubServer, contents: dict[str, bytes]
) -> None:
    hub.make_repo("ada/style", files=contents)
    assert largest_error(loaded("ada/style"), output(adapted_transformer("patterns"))) < 5e-6
    hub.fail("GET", ".*", 500, times=100)  # from now on only the cache
    assert largest_error(loaded("ada/style"), output(adapted_transformer("patterns"))) < 5e-6


def test_a_file_in_a_folder_can_be_named(hub: HubServer, contents: dict[str, bytes]) -> None:
    hub.make_repo("ada/style", files=contents)
    named = loaded("ada/style", weight_name="comfy.safetensors", subfolder="sub")
    assert largest_error(named, output(adapted_transformer())) < 5e-6
    with pytest.raises(InputError, match=r"several files that may be the LoRA; got comfy.safetensors, other"):
        loaded("ada/style", subfolder="sub")


def test_what_isnt_there_is_said(hub: HubServer, contents: dict[str, bytes]) -> None:
    hub.make_repo("ada/style", files=contents)
    for arguments, options, message in (
        (("ada/none",), {}, "no repository 'ada/none' that you may read"),
        (("ada/style",), {"weight_name": "x.safetensors"}, "has no file x.safetensors"),
        (("ada/style",), {"revision": "v9"}, "has no revision 'v9'"),
        (("ada/style",), {"subfolder": "nothing"}, "has no LoRA"),
    ):
        with pytest.raises(InputError, match=message):
            loaded(*arguments, **options)


def test_a_hub_that_fails_is_one_clear_error(hub: HubServer, contents: dict[str, bytes]) -> None:
    hub.make_repo("ada/style", files=contents)
    for method in ("GET", "HEAD"):
        hub.fail(method, ".*", 500, times=100)
    with pytest.raises(InputError, match="the Hub can't be reached and ada/style is not in the local cache"):
        loaded("ada/style")
