"""A tiny store, a tiny text encoder and a config that fits both."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ctglip.config import merge, validate
from ctglip.features.text_bank import TextBank
from ctglip.store.tables import Store
from ctglip.training.pretrain_config import PretrainConfig
from tests.objectives.conftest import ToyEncoder
from tests.training.tiny import write_tiny_radiographs, write_tiny_store, write_word_bert


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store of 40 tiny studies, and the table of what is true of them."""
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "store", 40)


@pytest.fixture(scope="session")
def tiny_cxr(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store of 40 tiny radiographs, and the table of what is true of them."""
    return write_tiny_radiographs(tmp_path_factory.mktemp("radiographs") / "store", 40)


@pytest.fixture(scope="session")
def word_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def config(word_bert: Path) -> PretrainConfig:
    return tiny_config(word_bert)


ORGANS = ["liver", "spleen", "kidney_left"]
CROPS = {"name": "crops", "organs": ORGANS, "crops": {"grid": [16, 16, 16]}, "sampling": {"batch": 12, "organs": 3}}
SCANS = {"name": "scans", "organs": ORGANS, "input": {"grid": [16, 16, 16]}, "batch": 4}
BOTH = {**CROPS, "scans": {"input": {"grid": [16, 16, 16]}, "batch": 4}}


def tiny_config(encoder: Path, *changes: Mapping[str, Any], **loop: object) -> PretrainConfig:
    """Six steps of a very small model, on crops where the changes do not say otherwise."""
    tree = {
        "data": CROPS,
        "text": {"name": str(encoder)},
        "model": {
            "encoder": {"name": "cnn", "widths": [8, 16], "blocks": [0, 1], "groups": 4},
            "dim": 32,
            "embedding_dim": 16,
        },
        "loop": {"steps": 6, "log_every": 1, "checkpoint_every": 2, "device": "cpu", "threads": 1, **loop},
        "optim": {"lr": 0.003, "warmup": 2},
    }
    return validate(PretrainConfig, functools.reduce(merge, (tree, *changes)), "test")


@pytest.fixture
def toy_bank(tmp_path: Path) -> TextBank:
    return TextBank(tmp_path, ToyEncoder())  # pyright: ignore[reportArgumentType]


def gradients(objective: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of all parameters that have one; they are cleared."""
    found = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    return found
