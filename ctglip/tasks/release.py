"""A classification that was fine-tuned, read from its folder: it answers its columns for studies of a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.torch import load_file

from ctglip.errors import ModelError
from ctglip.files import read_json
from ctglip.inference.model_readers import reader_of
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization
from ctglip.tasks.calibration import LogitCalibration
from ctglip.tasks.classification import Classification
from ctglip.tasks.classification_tables import score_table
from ctglip.tasks.head import BagHead
from ctglip.tasks.inputs import cached_features
from ctglip.tasks.network import ClassificationNetwork
from ctglip.tasks.settings import ClassificationConfig
from ctglip.tasks.studies import Studies
from ctglip.tasks.targets import Target

_BATCH = 256


class FinetunedModel:
    """A tuned model that answers its columns for studies of a store.

    Args:
        folder: what ``finetune`` wrote.

    Raises:
        ModelError: it is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "head" / "head.json").is_file():
            raise ModelError(f"{folder} holds no head/head.json.", fix="Name a folder that ctglip finetune wrote.")
        about = read_json(folder / "head" / "head.json")
        self.release = load_release(folder)
        self.targets = tuple(
            Target(t["column"], tuple(t["organs"]), t["abnormality"], tuple(t["classes"]), tuple(t["about"]))
            for t in about["tasks"]
        )
        self.thresholds: dict[str, float] = about["thresholds"]
        fitted = about["calibration"]
        self.calibration = LogitCalibration(fitted["scale"], tuple(fitted["offsets"]), fitted["answers"])
        state = load_file(folder / "head" / "head.safetensors")
        head = BagHead(state["weight"].shape[1], self.targets, about["organs"], about["hidden"])
        head.load_state_dict({name.replace("spread", "std"): value for name, value in state.items()})
        self.network = ClassificationNetwork(self.release.model, head, about["space"], about["whole"]).eval()
        global_image = about["whole"] and "whole" in reader_of(self.release, features_only=True).reads
        self.config = ClassificationConfig(read="whole" if global_image else "organs")

    def predict(self, store: Store, study_ids: Sequence[str]) -> pl.DataFrame:
        """study_id, column, class, probability, yes (at the threshold, null where none was chosen).

        A study that has none of a column's organs has no row for it.
        """
        blank, unknown = ("",) * len(study_ids), np.full((len(study_ids), len(self.targets)), np.nan, np.float32)
        studies = Studies(self.targets, tuple(study_ids), unknown, blank, blank, ())
        inputs, initialization = (
            cached_features(store, self.release, studies, self.config),
            Initialization.of(self.release),
        )
        task, rows = Classification(self.config, studies, {initialization.name: inputs}), np.arange(len(study_ids))
        table = score_table(
            studies, "", rows, task.answer(self.network, initialization, rows, _BATCH).logits, self.calibration
        )
        known = inputs.bags.answerable(self.targets, len(study_ids))
        answered = [known[:, number] for number, target in enumerate(self.targets) for _ in range(target.width)]
        name = pl.when(pl.col("class") == "").then("column").otherwise(pl.format("{} = {}", "column", "class"))
        limits = name.replace_strict(self.thresholds, default=None, return_dtype=pl.Float64)
        table = table.with_columns(yes=pl.col("probability") >= limits).filter(np.concatenate(answered))
        return table.select("study_id", "column", "class", "probability", "yes")
