"""A weight that belongs to two modules is trained once a step."""

from __future__ import annotations

import warnings

import torch
from transformers import T5Config, T5EncoderModel

from ltx_diffusers.training.config import OptimizerConfig
from ltx_diffusers.training.optimizer import build_optimizers


def test_a_shared_embedding_is_given_to_one_optimizer_once() -> None:
    config = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    encoder = T5EncoderModel(config)
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizers = build_optimizers(encoder, OptimizerConfig(name="muon"))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    trained = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(trained) == sorted({id(parameter) for parameter in encoder.parameters()})
    assert isinstance(optimizers[0], torch.optim.AdamW)
