"""A classification that was fine-tuned, read from its folder: it answers its columns for studies of a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.torch import load_file

from ctglip.errors import ModelError
from ctglip.files import read_json
from ctglip.models.release import Release, load_release
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization
from ctglip.tasks.calibration import LogitCalibration
from ctglip.tasks.classification import Classification
from ctglip.tasks.classification_tables import probabilities_of
from ctglip.tasks.head import BagHead
from ctglip.tasks.inputs import cached_features
from ctglip.tasks.network import ClassificationNetwork
from ctglip.tasks.settings import FinetuneConfig
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
        self.release: Release = load_release(folder)
        self.targets = tuple(
            Target(
                target["column"],
                tuple(target["organs"]),
                target["abnormality"],
                tuple(target["classes"]),
                tuple(target["about"]),
            )
            for target in about["tasks"]
        )
        self.organs: tuple[str, ...] = tuple(about["organs"])
        self.thresholds: dict[str, float] = about["thresholds"]
        self.calibration = LogitCalibration(
            about["calibration"]["scale"], tuple(about["calibration"]["offsets"]), about["calibration"]["answers"]
        )
        state = load_file(folder / "head" / "head.safetensors")
        head = BagHead(state["weight"].shape[1], self.targets, self.organs, about["hidden"])
        head.load_state_dict({name.replace("spread", "std"): value for name, value in state.items()})
        self.network = ClassificationNetwork(self.release.model, head, about["space"], about["whole"]).eval()
        radiographs = self.release.cxr is not None
        self.config = FinetuneConfig(read="whole" if about["whole"] and radiographs else "organs")

    def predict(self, store: Store, study_ids: Sequence[str]) -> pl.DataFrame:
        """study_id, column, class, probability, yes (at the threshold, null where none was chosen).

        A study that has none of a column's organs has no row for it.
        """
        blank, unknown = ("",) * len(study_ids), np.full((len(study_ids), len(self.targets)), np.nan, np.float32)
        studies = Studies(self.targets, tuple(study_ids), unknown, blank, blank, ())
        inputs = cached_features(store, self.release, studies, self.config)
        own = Initialization("tuned", self.release, False, "probe")
        task = Classification(self.config, studies, {own.name: inputs})
        answers = task.answer(self.network, own, np.arange(len(study_ids)), _BATCH)
        logits = self.calibration.logits(answers.logits.astype(np.float64))
        answerable = inputs.bags.answerable(self.targets, len(study_ids))
        frames, start = [], 0
        for number, target in enumerate(self.targets):
            rows = np.flatnonzero(answerable[:, number])
            probabilities = probabilities_of(logits[rows, start : start + target.width], target)
            start += target.width
            for position, name in enumerate(target.classes or ("",)):
                threshold = self.thresholds.get(f"{target.column} = {name}" if name else target.column)
                over = None if threshold is None else probabilities[:, position] >= threshold
                columns = {
                    "study_id": [study_ids[int(row)] for row in rows],
                    "column": target.column,
                    "class": name,
                    "probability": probabilities[:, position],
                    "yes": pl.Series([None] * len(rows) if over is None else over, dtype=pl.Boolean),
                }
                frames.append(pl.DataFrame(columns))
        return pl.concat(frames)
