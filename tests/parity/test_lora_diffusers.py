"""LoRA beside Diffusers' own pipeline: the same where it is right, and where it isn't."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from helpers.loras import (
    KINDS,
    adapted_transformer,
    add_adapter,
    base_transformer,
    in_tree_transformer,
    largest_error,
    output,
    pipeline,
    saved,
)
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from ltx_diffusers import LTXPipeline
from ltx_diffusers.conversion.lora.files import write_lora
from ltx_diffusers.conversion.lora.formats import to_tensors
from ltx_diffusers.conversion.lora.peft_model import extract_adapter

ROUNDING = 5e-6


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    return saved(tmp_path / "one")


@pytest.fixture
def theirs() -> diffusers.LTXPipeline:
    return pipeline(diffusers.LTXPipeline, in_tree_transformer())


class TestAgainstDiffusers:
    """Diffusers' own pipeline with the same LoRA, where it is right."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_reads_what_we_save(self, kind: str, theirs: diffusers.LTXPipeline, tmp_path: Path) -> None:
        path, expected = saved(tmp_path / "x", kind)
        theirs.load_lora_weights(path.parent)
        assert largest_error(output(theirs.transformer), expected) < ROUNDING

    def test_it_reads_our_comfy_files_where_names_coincide(
        self, theirs: diffusers.LTXPipeline, tmp_path: Path
    ) -> None:
        model = adapted_transformer(r=3, lora_alpha=3, target_modules=["to_q", "ff.net.2"])
        tensors = to_tensors(extract_adapter(model), "comfy")
        theirs.load_lora_weights(
            {key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")}
        )
        assert largest_error(output(theirs.transformer), output(model)) < ROUNDING

    def test_we_read_what_it_saves(self, theirs: diffusers.LTXPipeline, tmp_path: Path) -> None:
        add_adapter(theirs.transformer, "patterns")
        theirs.save_lora_weights(
            tmp_path,
            get_peft_model_state_dict(theirs.transformer),
            transformer_lora_adapter_metadata=theirs.transformer.peft_config["default"].to_dict(),
        )
        theirs.transformer.save_lora_adapter(tmp_path / "model")
        for folder in (tmp_path, tmp_path / "model"):
            pipe = pipeline()
            pipe.load_lora_weights(folder)
            assert largest_error(output(pipe.transformer), output(theirs.transformer)) < ROUNDING

    def test_its_transformer_works_in_our_pipeline(self, one: tuple[Path, torch.Tensor]) -> None:
        pipe = pipeline(transformer=in_tree_transformer())
        pipe.load_lora_weights(one[0])
        assert largest_error(output(pipe.transformer), one[1]) < ROUNDING


class TestWhereDiffusersFails:
    """What Diffusers 0.42.1 does with LoRAs that ours handles; a failure here means that it was fixed there."""

    def test_files_with_alpha_are_refused_and_kohyas_ignored(
        self, theirs: diffusers.LTXPipeline, tmp_path: Path
    ) -> None:
        model = adapted_transformer(target_modules=["to_q"])
        files = {
            format: write_lora(extract_adapter(model), tmp_path / f"{format}.safetensors", format)
            for format in ("comfy", "kohya")
        }
        with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
            theirs.load_lora_weights(files["comfy"])
        theirs.load_lora_weights(
            {key: tensor for key, tensor in load_file(files["kohya"]).items() if not key.endswith("alpha")}
        )
        assert largest_error(output(theirs.transformer), output(base_transformer())) < ROUNDING
        for path in files.values():
            pipe = pipeline()
            pipe.load_lora_weights(path)
            assert largest_error(output(pipe.transformer), output(model)) < ROUNDING

    def test_official_names_are_not_known(self, theirs: diffusers.LTXPipeline) -> None:
        model = adapted_transformer(
            r=2, lora_alpha=2, target_modules=["to_q", "proj_in", "time_embed.linear"]
        )
        tensors = to_tensors(extract_adapter(model), "comfy")
        tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")}
        theirs.load_lora_weights(tensors)
        assert largest_error(output(theirs.transformer), output(model)) > 0.01
        pipe = pipeline()
        pipe.load_lora_weights(tensors)
        assert largest_error(output(pipe.transformer), output(model)) < ROUNDING

    def test_saving_as_its_scripts_do_loses_alpha(
        self, theirs: diffusers.LTXPipeline, tmp_path: Path
    ) -> None:
        add_adapter(theirs.transformer)
        theirs.save_lora_weights(tmp_path / "theirs", get_peft_model_state_dict(theirs.transformer))
        again = pipeline(diffusers.LTXPipeline, in_tree_transformer())
        again.load_lora_weights(tmp_path / "theirs")
        assert largest_error(output(again.transformer), output(theirs.transformer)) > 0.01
        LTXPipeline.save_lora_weights(tmp_path / "ours", theirs.transformer)
        pipe = pipeline()
        pipe.load_lora_weights(tmp_path / "ours")
        assert largest_error(output(pipe.transformer), output(theirs.transformer)) < ROUNDING

    def test_unfusing_leaves_the_scale_of_fusing(
        self, theirs: diffusers.LTXPipeline, one: tuple[Path, torch.Tensor]
    ) -> None:
        theirs.load_lora_weights(one[0].parent)
        theirs.fuse_lora(lora_scale=0.5)
        theirs.unfuse_lora()
        assert largest_error(output(theirs.transformer), one[1]) > 0.01

    def test_loading_beside_a_fused_lora_takes_it_out(
        self, theirs: diffusers.LTXPipeline, one: tuple[Path, torch.Tensor], tmp_path: Path
    ) -> None:
        second, expected = saved(tmp_path / "second", seed=2)
        theirs.load_lora_weights(one[0].parent)
        theirs.fuse_lora()
        theirs.load_lora_weights(second.parent)
        assert theirs.num_fused_loras == 1
        assert largest_error(output(theirs.transformer), expected) < ROUNDING

    def test_weights_set_while_fused_do_nothing(
        self, theirs: diffusers.LTXPipeline, one: tuple[Path, torch.Tensor]
    ) -> None:
        theirs.load_lora_weights(one[0].parent, adapter_name="style")
        theirs.fuse_lora()
        theirs.set_adapters("style", 0.0)
        assert largest_error(output(theirs.transformer), one[1]) < ROUNDING

    def test_ranks_and_scales_by_layer_cant_be_swapped_in(
        self, theirs: diffusers.LTXPipeline, one: tuple[Path, torch.Tensor], tmp_path: Path
    ) -> None:
        theirs.load_lora_weights(one[0].parent, adapter_name="style")
        with pytest.raises(ValueError, match="alpha_pattern"):
            theirs.load_lora_weights(
                saved(tmp_path / "x", "patterns")[0].parent, adapter_name="style", hotswap=True
            )
