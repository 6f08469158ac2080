"""Pretraining: ``pretrain(store, run, config)`` trains, checkpoints, validates and writes ``run/model``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.training.callbacks import Callbacks as Callbacks
    from ctglip.training.launch import pretrain as pretrain
    from ctglip.training.optim import OptimSettings as OptimSettings
    from ctglip.training.pretrain_config import PretrainConfig as PretrainConfig
    from ctglip.training.sources import open_source as open_source
    from ctglip.training.trainer import LoopSettings as LoopSettings
    from ctglip.training.trainer import Trainer as Trainer

__getattr__, __dir__ = public_names(__name__)
