"""The shipped configs of `accelerate launch`: each is read, and what it says reaches the processes."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"


def launch_arguments(name):
    arguments = launch_command_parser().parse_args(["--config_file", str(FOLDER / name), "train.py"])
    arguments = _validate_launch_command(arguments)[0]
    # The command adds it for DeepSpeed: what the config file says, and a config of DeepSpeed's own therefore needn't.
    arguments.deepspeed_fields_from_accelerate_config = ""
    return arguments


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_knows_all_keys(path):
    assert load_config_from_file(str(path)).num_processes == 8


def test_the_plain_config_starts_a_process_for_each_gpu():
    arguments = launch_arguments("ddp.yaml")
    assert arguments.multi_gpu and not arguments.use_fsdp and not arguments.use_deepspeed
    assert arguments.num_processes == 8


def test_the_sharded_config_is_fsdp2_with_sharded_checkpoints():
    arguments = launch_arguments("fsdp2.yaml")
    assert arguments.use_fsdp
    environment = prepare_multi_gpu_env(arguments)
    assert environment["FSDP_VERSION"] == "2"
    assert environment["FSDP_STATE_DICT_TYPE"] == "SHARDED_STATE_DICT"
    assert environment["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    assert "FSDP_TRANSFORMER_CLS_TO_WRAP" not in environment


def test_the_deepspeed_config_is_zero_2():
    arguments = launch_arguments("deepspeed_zero2.yaml")
    assert arguments.use_deepspeed and arguments.zero_stage == 2
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "2"
