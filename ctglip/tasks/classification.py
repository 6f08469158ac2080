"""Classification: the columns of a label table are answered from organs, or from whole radiographs.

The head is ``head.BagHead``, the loss ``losses.LabelLoss``, the metric the macro AUROC over columns and classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import nn

from ctglip.data.augment import AugmentSettings
from ctglip.errors import ConfigError
from ctglip.evaluation.bootstrap import Question, weighted_auroc
from ctglip.inference.encoding import evaluating
from ctglip.inference.scoring import Dictionaries, dictionaries_of
from ctglip.pages.report import render
from ctglip.store.tables import Store
from ctglip.tasks.base import (
    Initialization,
    Task,
    TaskBatch,
    TaskObjective,
    in_batches,
    save_head,
    save_tuned_release,
)  # fmt: skip
from ctglip.tasks.calibration import calibrate_texts, fit_logits
from ctglip.tasks.classification_results import ClassificationResults, ComparedColumns, classification_results
from ctglip.tasks.classification_tables import attention_table, score_table, scores_of
from ctglip.tasks.inputs import (
    CachedFeatures,
    OrganInputs,
    inputs_by_name,
    organs_of,
    readable_organs,
    tuning_reader,
)  # fmt: skip
from ctglip.tasks.losses import LabelLoss
from ctglip.tasks.network import (
    BAG_ORGAN,
    BAG_STUDY,
    ClassificationNetwork,
    build_network,
    speaks,
    tuned_release,
)  # fmt: skip
from ctglip.tasks.page import classification_page
from ctglip.tasks.results import BootstrapPatients, FinishedRun, TaskResults
from ctglip.tasks.settings import ClassificationConfig
from ctglip.tasks.studies import TEST, VAL, Studies, join, unanswerable
from ctglip.tasks.targets import Target, UnusedInput, read_targets
from ctglip.training.callbacks import LOSS, Callbacks


@dataclass(frozen=True)
class Predictions:
    """A network's answers about some studies.

    Attributes:
        logits: ``[s, c]``.
        rows: instances that were read; attention: the share of each of them, ``[n, t]``.
    """

    logits: Float[np.ndarray, "s c"]
    rows: Int[np.ndarray, " n"]
    attention: Float[np.ndarray, "n t"]


class Classification(Task[ClassificationConfig]):
    """Columns of a label table.

    Args:
        config: of the fine-tuning.
        studies: labels.
        inputs: what the network of each initialization reads, by its name.
        label_source: what the labels are called.
        dictionaries: display names.
    """

    score = "macro_auroc"
    from_labels = True

    def __init__(
        self,
        config: ClassificationConfig,
        studies: Studies,
        inputs: Mapping[str, OrganInputs],
        label_source: str = "labels",
        dictionaries: Dictionaries | None = None,
    ) -> None:
        super().__init__(config, studies)
        self.inputs, self.label_source, self.dictionaries = inputs, label_source, dictionaries

    @classmethod
    def open(
        cls,
        store: Store,
        initializations: Sequence[Initialization],
        config: ClassificationConfig,
        labels: Path | None,
        callbacks: Callbacks,
    ) -> Classification:
        """Read a label table, and the organs of each initialization."""
        assert labels is not None
        release = initializations[0].release
        if release.cxr is not None and config.augment != AugmentSettings():
            raise ConfigError(
                "augment is of scans; radiographs are augmented as in their pretraining.", fix="Leave augment out."
            )
        reader, dictionaries = tuning_reader(release, config), dictionaries_of(release)
        global_image = reader.reading == "whole"
        organs = [] if global_image else readable_organs(reader, store)
        studies = join(read_targets(labels, dictionaries, organs, config.columns, config.ignore, global_image), store)
        inputs, unreadable = inputs_by_name(store, initializations, studies, config, callbacks)
        problems: dict[UnusedInput, None] = dict.fromkeys(unreadable)
        for one in initializations:
            studies, lacking = unanswerable(studies, inputs[one.name].bags)
            problems |= dict.fromkeys(lacking)
        studies = studies.with_problems(tuple(problems))
        return cls(config, studies, inputs, f"label table {labels.name}", dictionaries)

    def network(self, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> ClassificationNetwork:
        """A model with its head, whose features are standardised over the training organs."""
        targets, inputs = self.studies.targets, self.inputs[initialization.name]
        network = build_network(initialization, targets, organs_of(targets), self.config)
        standardise(network, inputs, rows)
        return network

    def loss(self, rows: Int[np.ndarray, " n"]) -> LabelLoss:
        """Over the known labels."""
        return LabelLoss(self.studies.targets, self.studies.values[rows], self.config.loss)

    def batch(
        self, initialization: Initialization, rows: Int[np.ndarray, " n"], rng: np.random.Generator | None
    ) -> TaskBatch:
        """The organs of some studies and their labels, NaN where not known."""
        return self._batch(initialization, rows, rng)[0]

    def _batch(
        self, initialization: Initialization, rows: Int[np.ndarray, " n"], rng: np.random.Generator | None
    ) -> tuple[TaskBatch, Int[np.ndarray, " n"]]:
        """Also the instances that are read."""
        inputs = self.inputs[initialization.name]
        instances, study = inputs.bags.rows(rows)
        organ = torch.from_numpy(inputs.bags.organ[instances])
        read = {**inputs.read(instances, rng), BAG_ORGAN: organ, BAG_STUDY: torch.from_numpy(study)}
        return TaskBatch(read, torch.from_numpy(self.studies.values[rows])), instances

    def trainable(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Those of which some label is known."""
        return rows[np.isfinite(self.studies.values[rows]).any(1)]

    def cached(self, initialization: Initialization) -> bool:
        """Whether features of a frozen encoder are read."""
        return isinstance(self.inputs[initialization.name], CachedFeatures)

    def answer(
        self, network: nn.Module, initialization: Initialization, rows: Int[np.ndarray, " n"], size: int = 0
    ) -> Predictions:
        """Answers about some studies, so many at a time."""
        assert isinstance(network, ClassificationNetwork)
        if not len(rows):
            columns, targets = len(network.head.bias), len(network.head.prefer)
            none = np.zeros((0, columns), np.float32), np.zeros((0, targets), np.float32)
            return Predictions(none[0], np.zeros(0, np.int64), none[1])
        logits, attention, read = [], [], []
        with evaluating(network):
            for some in in_batches(rows, size or self.config.fit.batch):
                batch, instances = self._batch(initialization, some, None)
                answers = network.answer(batch.to(initialization.device).inputs, len(some))
                logits.append(answers.logits.float().cpu().numpy())
                attention.append(answers.attention.float().cpu().numpy())
                read.append(instances)
        return Predictions(np.concatenate(logits), np.concatenate(read), np.concatenate(attention))

    def predict(self, network: nn.Module, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> pl.DataFrame:
        """A row for each study, column and class."""
        return score_table(self.studies, "", rows, self.answer(network, initialization, rows).logits, None)

    def measure(self, objective: TaskObjective, initialization: Initialization) -> dict[str, float]:
        """Macro AUROC and loss."""
        rows = self.studies.of(VAL)
        if not len(rows):
            return {}
        logits, values = self.answer(objective.network, initialization, rows).logits, self.studies.values[rows]
        device = initialization.device
        loss = objective.loss(torch.from_numpy(logits).to(device), torch.from_numpy(values).to(device))
        return {"val_macro_auroc": macro_auroc(logits, values, self.studies.targets), LOSS: float(loss)}

    def finish(
        self, network: nn.Module, initialization: Initialization
    ) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
        """Calibrated scores of validation and test, and the attention over organs of the test studies."""
        studies = self.studies
        answers = {split: self.answer(network, initialization, studies.of(split)) for split in (VAL, TEST)}
        calibration = fit_logits(answers[VAL].logits, studies.values[studies.of(VAL)], studies.targets)
        scores = pl.concat(
            score_table(studies, split, studies.of(split), found.logits, calibration)
            for split, found in answers.items()
            if len(found.logits)
        )
        bags, test = self.inputs[initialization.name].bags, answers[TEST]
        tables = {"scores": scores, "attention": attention_table(studies, bags, test.rows, test.attention)}
        return tables, {"calibration": asdict(calibration)}

    def draws(self, run: FinishedRun, patients: BootstrapPatients) -> Float[np.ndarray, " draws"]:
        """Macro AUROC."""
        compared = ComparedColumns.of(self.studies, self.config.evaluate, patients)
        return compared.draws(scores_of(run.table("scores"), TEST, self.studies.targets, compared.labels))

    def results(self, runs: Sequence[FinishedRun]) -> ClassificationResults:
        """All runs, compared on the test split, and the released one column by column."""
        return classification_results(runs, self.studies, self.config.evaluate, self.label_source)

    def save(
        self, out: Path, initialization: Initialization, network: nn.Module, results: TaskResults, run: FinishedRun
    ) -> TaskResults:
        """``out/model`` as every command reads it, ``out/head`` with what answers the columns. Where the model behind
        the answers to texts has moved, their scale is fitted anew."""
        assert isinstance(network, ClassificationNetwork)
        assert isinstance(results, ClassificationResults)
        inputs, mode = self.inputs[initialization.name], initialization.mode
        texts = None
        if mode != "probe" and speaks(initialization.release, network.global_image):
            texts = calibrate_texts(initialization.release, network, inputs, self.studies, self.label_source)
            calibration = replace(results.calibration, texts=texts.error)
            results = replace(results, calibration=calibration, notes=(*results.notes, texts.note))
        release = tuned_release(initialization, network.model)
        if texts is not None:
            release.calibration = texts.calibration.model_dump(mode="json")
        save_tuned_release(out / "model", release, mode, results)
        about = {
            "space": network.space,
            "whole": network.global_image,
            "organs": list(inputs.bags.organs),
            "hidden": network.head.value.out_features,
            "tasks": [asdict(target) for target in self.studies.targets],
            "thresholds": {pair.abnormality: pair.at.threshold for pair in results.pairs if pair.at},
            "calibration": run.about["calibration"],
        }
        save_head(out / "head", self.head_file, network.head, about)
        return results

    def page(self, results: TaskResults, run: FinishedRun) -> str | None:
        """The evaluation page of the released model, with the other initializations as its controls."""
        assert isinstance(results, ClassificationResults)
        if self.dictionaries is None:
            return None
        patients = BootstrapPatients.of(self.studies, self.config.evaluate)
        compared = ComparedColumns.of(self.studies, self.config.evaluate, patients)
        scores = scores_of(run.table("scores"), TEST, self.studies.targets, compared.labels)
        return render(classification_page(results, self.studies, scores, compared.labels, self.dictionaries))


def standardise(
    network: ClassificationNetwork, inputs: OrganInputs, studies: Int[np.ndarray, " n"], batch: int = 256
) -> None:
    """Let the head of raw features take means and standard deviations from the training organs, as the model reads
    them before its first step."""
    if network.space != "raw":
        return
    device = network.head.bias.device
    instances, _ = inputs.bags.rows(studies)
    with evaluating(network):
        parts = [
            network.read({name: value.to(device) for name, value in inputs.read(rows, None).items()}).float()
            for rows in in_batches(instances, batch)
        ]
    network.head.standardise(torch.cat(parts), torch.from_numpy(inputs.bags.organ[instances]).to(device))


def macro_auroc(logits: Float[np.ndarray, "s c"], values: Float[np.ndarray, "s t"], targets: Sequence[Target]) -> float:
    """Mean AUROC over columns and classes that have both answers; 0.5 where none has."""
    found, start = [], 0
    for number, target in enumerate(targets):
        rows = np.isfinite(values[:, number])
        for position in range(target.width):
            truth = (values[rows, number] == (position if target.classes else 1)).astype(int)
            question = Question(truth, logits[rows, start + position], np.zeros(len(truth), dtype=int))
            if 0 < truth.sum() < len(truth):
                found.append(weighted_auroc(question, np.ones((1, 1)))[0])
        start += target.width
    return float(np.mean(found)) if found else 0.5
