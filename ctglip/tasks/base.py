"""What a task is, and what the trainer sees of one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from ctglip.config import Settings
from ctglip.evaluation.bootstrap import weighted_mean
from ctglip.files import atomic_path, write_json
from ctglip.models.release import Release, save_release
from ctglip.objectives.base import START, Features, Losses, Objective, StepContext, StepReport
from ctglip.store.tables import Store
from ctglip.tasks.results import BootstrapPatients, FinishedRun, TaskResults, compare_runs
from ctglip.tasks.settings import FinetuneConfig, TuningMode
from ctglip.tasks.studies import TEST, VAL, Studies
from ctglip.training.callbacks import Callbacks

C = TypeVar("C", bound=FinetuneConfig)


@dataclass(frozen=True)
class Initialization:
    """Where a network begins.

    Attributes:
        name: in tables and file names.
        release: the model, or the one whose shape random weights take.
        random: the weights are drawn.
        mode: what is trained.
    """

    name: str
    release: Release
    random: bool
    mode: TuningMode

    @staticmethod
    def of(release: Release) -> Initialization:
        """A model as it is."""
        return Initialization("model", release, False, "probe")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.release.model.parameters()).device


@dataclass(frozen=True)
class TaskBatch:
    """What a network reads of some studies, by name, and what it shall say: a row for each study."""

    inputs: Mapping[str, Tensor]
    targets: Tensor

    def to(self, device: torch.device | str) -> TaskBatch:
        """The same on a device."""
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return TaskBatch(inputs, self.targets.to(device))

    def __len__(self) -> int:
        return len(self.targets)


class TaskObjective(Objective):
    """A task's network and loss, as the trainer trains them.

    Args:
        network: ``network(inputs, studies)`` gives outputs with a row for each of so many studies.
        loss: ``loss(outputs, targets)`` gives a scalar that looks at each study alone, or nearly so.
    """

    batch_coupled = False
    aligned = False

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def collate(self, samples: TaskBatch, context: StepContext = START) -> TaskBatch:  # noqa: ARG002
        """Tasks make whole batches."""
        return samples

    def encode(self, batch: TaskBatch) -> Features:
        """``outputs`` and ``targets``."""
        return {"outputs": self.network(batch.inputs, len(batch)), "targets": batch.targets}

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:  # noqa: ARG002
        """The loss ``task``."""
        return {"task": self.loss(features["outputs"], features["targets"])}, {}


class Task(ABC, Generic[C]):
    """One thing to learn from the studies of a store; the package's docstring says how one is declared.

    Args:
        config: of the fine-tuning.
        studies: those that have targets, with patients and splits, and what of the input cannot be used.

    Attributes:
        score: name of the number that tells good from bad, higher is better; ``measure`` gives it as ``val_<score>``.
        from_labels: targets are in a label table, not in the store.
        head_file: name of the files of ``head/``.
    """

    score: str
    from_labels: ClassVar[bool] = False
    head_file: ClassVar[str] = "head"

    def __init__(self, config: C, studies: Studies) -> None:
        self.config, self.studies = config, studies

    @classmethod
    @abstractmethod
    def open(
        cls,
        store: Store,
        initializations: Sequence[Initialization],
        config: C,
        labels: Path | None,
        callbacks: Callbacks,
    ) -> Task:
        """Read the targets, and what networks read, from a store (and a label table).

        Raises:
            CTGLIPError: there is nothing to learn from, or models and store do not fit.
        """

    @abstractmethod
    def network(self, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> nn.Module:
        """Model and ``head`` before the first step, drawn with torch's generator, what learns marked; ``rows`` are the
        training studies."""

    @abstractmethod
    def loss(self, rows: Int[np.ndarray, " n"]) -> Callable[[Tensor, Tensor], Tensor]:
        """What is minimised, see ``TaskObjective``."""

    @abstractmethod
    def batch(
        self, initialization: Initialization, rows: Int[np.ndarray, " n"], rng: np.random.Generator | None
    ) -> TaskBatch:
        """Inputs and targets of some studies, on the CPU or where they are cached; augmented where ``rng`` is given."""

    @abstractmethod
    def predict(self, network: nn.Module, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> pl.DataFrame:
        """The network's answers, one study or more rows each; by default ``score`` holds each study's score."""

    def trainable(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Those of some studies that have a target."""
        return rows

    def cached(self, initialization: Initialization) -> bool:  # noqa: ARG002
        """Whether batches are read from features in memory: such runs are short and keep no checkpoints."""
        return False

    def measure(self, objective: TaskObjective, initialization: Initialization) -> dict[str, float]:
        """Numbers of the validation split, ``val_<score>`` among them; nothing where no study is in it."""
        rows = self.studies.of(VAL)
        if not len(rows):
            return {}
        scores = self.predict(objective.network, initialization, rows)["score"].to_numpy()
        return {f"val_{self.score}": float(scores.mean())}

    def finish(
        self, network: nn.Module, initialization: Initialization
    ) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
        """What a run keeps: tables by name (``scores`` among them), and facts for ``run.json``."""
        return {"scores": self.predict(network, initialization, self.studies.of(TEST))}, {}

    def draws(self, run: FinishedRun, patients: BootstrapPatients) -> Float[np.ndarray, " draws"]:
        """The score of a run on the test split, then those of its bootstrap draws: by default the mean over studies."""
        return weighted_mean(run.table("scores")["score"].to_numpy(), patients.numbers, patients.weights)

    def results(self, runs: Sequence[FinishedRun]) -> TaskResults:
        """All runs, compared on the test split."""
        patients = BootstrapPatients.of(self.studies, self.config.evaluate)
        compared = compare_runs(runs, lambda run: self.draws(run, patients), f"val_{self.score}")
        return TaskResults(
            task=self.config.task,
            metric=self.score,
            studies=len(patients.study_ids),
            patients=patients.weights.shape[1],
            problems=self.studies.problems,
            **compared,
        )

    def tuned(self, initialization: Initialization, network: nn.Module) -> Release:  # noqa: ARG002
        """What ``save`` writes as the model: by default the initialization's as it was."""
        return copy.copy(initialization.release)

    def head_settings(self) -> Settings:
        """What ``save`` writes beside the head's weights, to build it by: by default the config."""
        return self.config

    def save(
        self,
        out: Path,
        initialization: Initialization,
        network: nn.Module,
        results: TaskResults,
        run: FinishedRun,  # noqa: ARG002
    ) -> TaskResults:
        """Write ``out/model``, see ``tuned``, and ``out/head``, the network's ``head`` and its settings; returns the
        results with what was measured meanwhile."""
        assert isinstance(network.head, nn.Module)
        save_tuned_release(out / "model", self.tuned(initialization, network), initialization.mode, results)
        save_head(out / "head", self.head_file, network.head, self.head_settings().model_dump(mode="json"))
        return results

    def page(self, results: TaskResults, run: FinishedRun) -> str | None:  # noqa: ARG002
        """The results as HTML; None: there is no page."""
        return None


def save_head(folder: Path, name: str, head: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a head's weights and what it needs to be built."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        state = {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
        save_file(state, temporary / f"{name}.safetensors")
        write_json(temporary / f"{name}.json", about)


def save_tuned_release(folder: Path, release: Release, mode: str, results: TaskResults) -> None:
    """Write a tuned model, which says what it was tuned for; one that never knew texts names a text encoder alone."""
    about = {"task": results.task, "mode": mode, **results.released}
    release.provenance = {**release.provenance, "finetuned": about}
    save_release(folder, release, reference_text_encoder=not release.text_hash)


def release_with_encoder(initialization: Initialization, encoder: nn.Module, frozen: bool) -> Release:
    """An initialization's release with its image encoder as it is now; what was measured of one that learned is left
    out."""
    release = copy.copy(initialization.release)
    model = copy.deepcopy(release.model)
    model.encoder.load_state_dict(encoder.state_dict())
    release.model = model.cpu().eval()
    if not frozen:
        release.calibration, release.familiarity = {}, None
    return release


def in_batches(rows: Int[np.ndarray, " n"], size: int) -> Iterator[Int[np.ndarray, " b"]]:
    """Some rows after the others."""
    yield from (rows[start : start + size] for start in range(0, len(rows), size))
