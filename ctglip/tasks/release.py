"""A tuned model on disk: ``model/`` as every command reads it, ``head/`` with what answers the table's columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.torch import load_file, save_file

from ctglip.errors import ModelError
from ctglip.files import atomic_path, read_json, write_json
from ctglip.inference.scoring import Calibration
from ctglip.models.release import Release, load_release, save_release
from ctglip.store.tables import Store
from ctglip.tasks.calibration import from_plain
from ctglip.tasks.fit import predict
from ctglip.tasks.head import BagHead
from ctglip.tasks.inputs import kept_source
from ctglip.tasks.network import Network, Start, tuned_release
from ctglip.tasks.results import FinetuneResults
from ctglip.tasks.runs import CellResult, probabilities_of
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.studies import Studies
from ctglip.tasks.targets import Task

_BATCH = 256


def save_tuned(
    out: Path,
    start: Start,
    network: Network,
    tasks: Sequence[Task],
    organs: Sequence[str],
    results: FinetuneResults,
    cell: CellResult,
    calibration: Calibration | None = None,
) -> None:
    """Write ``out/model`` and ``out/head``.

    Args:
        out: the fine-tuning's folder.
        start: where it began.
        network: with the weights that are kept.
        tasks: the columns.
        organs: names by number.
        results: thresholds and provenance.
        cell: the fit that is kept.
        calibration: of answers to texts; None leaves the model's own.
    """
    release = tuned_release(start, network)
    release.provenance = {**release.provenance, "finetuned": {"mode": results.mode, **results.released}}
    if calibration is not None:
        release.calibration = calibration.model_dump(mode="json")
    save_release(out / "model", release)
    thresholds = {pair.abnormality: pair.at.threshold for pair in results.pairs if pair.at}
    with atomic_path(out / "head") as temporary:
        temporary.mkdir()
        state = {name: value.detach().cpu().contiguous() for name, value in network.head.state_dict().items()}
        save_file(state, temporary / "head.safetensors")
        write_json(
            temporary / "head.json",
            {
                "space": network.space,
                "whole": network.whole,
                "organs": list(organs),
                "hidden": network.head.value.out_features,
                "tasks": [asdict(task) for task in tasks],
                "thresholds": thresholds,
                "calibration": cell.about["calibration"],
            },
        )


class Tuned:
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
        self.tasks = tuple(
            Task(
                task["column"],
                tuple(task["organs"]),
                task["abnormality"],
                tuple(task["classes"]),
                tuple(task["about"]),
            )
            for task in about["tasks"]
        )
        self.organs: tuple[str, ...] = tuple(about["organs"])
        self.thresholds: dict[str, float] = about["thresholds"]
        self.calibration = from_plain(about["calibration"])
        state = load_file(folder / "head" / "head.safetensors")
        head = BagHead(state["weight"].shape[1], self.tasks, self.organs, about["hidden"])
        head.load_state_dict(state)
        self.network = Network(self.release.model, head, about["space"], about["whole"]).eval()
        radiographs = self.release.cxr is not None
        self.config = FinetuneConfig(read="whole" if about["whole"] and radiographs else "organs")

    def predict(self, store: Store, study_ids: Sequence[str]) -> pl.DataFrame:
        """study_id, column, class, probability, yes (at the threshold, null where none was chosen).

        A study that has none of a column's organs has no row for it.
        """
        blank, unknown = ("",) * len(study_ids), np.full((len(study_ids), len(self.tasks)), np.nan, np.float32)
        studies = Studies(self.tasks, tuple(study_ids), unknown, blank, blank, ())
        source = kept_source(store, self.release, studies, self.config)
        said = predict(self.network, source, np.arange(len(study_ids)), _BATCH)
        bags = source.bags
        logits = self.calibration.logits(said.logits.astype(np.float64))
        answerable = bags.answerable(self.tasks, len(study_ids))
        frames, start = [], 0
        for number, task in enumerate(self.tasks):
            rows = np.flatnonzero(answerable[:, number])
            probabilities = probabilities_of(logits[rows, start : start + task.width], task)
            start += task.width
            for position, name in enumerate(task.classes or ("",)):
                threshold = self.thresholds.get(f"{task.column} = {name}" if name else task.column)
                over = None if threshold is None else probabilities[:, position] >= threshold
                columns = {
                    "study_id": [study_ids[int(row)] for row in rows],
                    "column": task.column,
                    "class": name,
                    "probability": probabilities[:, position],
                    "yes": pl.Series([None] * len(rows) if over is None else over, dtype=pl.Boolean),
                }
                frames.append(pl.DataFrame(columns))
        return pl.concat(frames)
