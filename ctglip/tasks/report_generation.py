"""Report generation: one passage an organ, written by a language model that reads the organ's features.

The truth is the store's reports, cut into passages by the parser's findings; the metric is the F1 of facts (organ,
abnormality, status, side) by the same parser, with hallucinations, omissions and the likeness of words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctglip.errors import CohortError
from ctglip.evaluation.bootstrap import interval_of
from ctglip.evaluation.text_metrics import WORDNET, has_wordnet
from ctglip.inference.encoding import Inputs, evaluating, read_organs
from ctglip.inference.feature_cache import check_recipe
from ctglip.inference.scoring import Dictionaries, dictionaries_of
from ctglip.models.dual_encoder import DualEncoder
from ctglip.reports.contradictions import first_sound
from ctglip.reports.parser import get_parser
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization, Task, TaskBatch, TaskObjective, in_batches, save_tuned_release
from ctglip.tasks.inputs import (
    CachedFeatures,
    OrganInputs,
    inputs_by_name,
    readable_organs,
    tuning_reader,
)
from ctglip.tasks.network import (
    BAG_ORGAN,
    BAG_STUDY,
    FEATURES,
    FROZEN,
    initial_model,
    mark_trainable,
    raw_width,
    reads_global_image,
    tuned_release,
)  # fmt: skip
from ctglip.tasks.passages import Passages, read_passages
from ctglip.tasks.report_baselines import PassageBaselines, frozen_baselines, written_baselines
from ctglip.tasks.report_scores import Draws, PassageJudge, clinical_f1
from ctglip.tasks.report_settings import WritingSettings
from ctglip.tasks.report_writer import OrganWriter, PassagePieces, build_writer, pieces_for, save_writer
from ctglip.tasks.results import BootstrapPatients, Difference, FinishedRun, LabelShare, TaskResults, compare_runs
from ctglip.tasks.settings import ReportConfig
from ctglip.tasks.studies import TEST, TRAIN, VAL, Bags, Studies
from ctglip.tasks.targets import Target, UnusedInput
from ctglip.training.callbacks import LOSS, Callbacks
from ctglip.types import Interval
from ctglip.vocabulary.prompts import normal_prompts

TEXT, WEIGHT = "text", "weight"
"""Of inputs: the pieces of each organ's passage, and how much it counts; 0 where there is nothing to learn."""


class ReportNetwork(nn.Module):
    """A model that reads organs, and what writes about them."""

    def __init__(self, model: DualEncoder, head: OrganWriter) -> None:
        super().__init__()
        self.model, self.head = model, head

    def read(self, inputs: Inputs) -> Float[Tensor, "n d"]:
        """Raw features: those that are cached, or of images."""
        images = {name: value for name, value in inputs.items() if name not in (BAG_ORGAN, BAG_STUDY, TEXT, WEIGHT)}
        return images[FEATURES] if FEATURES in images else read_organs(self.model, images)

    def forward(self, inputs: Inputs, studies: int) -> Float[Tensor, " s"]:
        """Weighted negative log-likelihood of each study's passages, in nats."""
        rows = inputs[WEIGHT] > 0
        lost = self.head(self.read(inputs)[rows], inputs[BAG_ORGAN][rows], inputs[TEXT][rows])
        return lost.new_zeros(studies).index_add(0, inputs[BAG_STUDY][rows], lost * inputs[WEIGHT][rows])


def per_piece(outputs: Float[Tensor, " s"], targets: Float[Tensor, " s"]) -> Tensor:
    """Mean over the weighted pieces of a batch."""
    return outputs.sum() / targets.sum().clamp(min=1.0)


class ReportGeneration(Task[ReportConfig]):
    """The passages of reports.

    Args:
        config: of the fine-tuning.
        studies: those that have a passage.
        passages: what reports say.
        inputs: what the network of each initialization reads, by its name.
        dictionaries: of the model.
        baselines: makes those of a share of the training studies.
    """

    score = "clinical_f1"
    head_file = "report"

    def __init__(
        self,
        config: ReportConfig,
        studies: Studies,
        passages: Passages,
        inputs: Mapping[str, OrganInputs],
        dictionaries: Dictionaries,
        baselines: Callable[[Int[np.ndarray, " n"]], PassageBaselines] | None = None,
    ) -> None:
        super().__init__(config, studies)
        self.passages, self.inputs, self.dictionaries, self.baselines = passages, inputs, dictionaries, baselines
        self.parser = get_parser(dictionaries.organs, dictionaries.abnormalities)
        self._scored: dict[str, Draws] = {}

    @classmethod
    def open(
        cls,
        store: Store,
        initializations: Sequence[Initialization],
        config: ReportConfig,
        labels: Path | None,  # noqa: ARG003
        callbacks: Callbacks,
    ) -> ReportGeneration:
        """Read the reports, and the organs of each initialization."""
        release = initializations[0].release
        for one in initializations:
            check_recipe(store, one.release)
        dictionaries, settings = dictionaries_of(release), config.report
        splits = dict(store.table("splits").select("study_id", "split").iter_rows())
        training = [name for name in store.study_ids if splits.get(name) == TRAIN]
        readable = readable_organs(tuning_reader(release, config), store)
        passages = read_passages(
            store, store.study_ids, training, readable, dictionaries, settings.sections, settings.least
        )
        studies = _reported(store, passages, splits)
        inputs, problems = inputs_by_name(store, initializations, studies, config, callbacks)

        def baselines(rows: Int[np.ndarray, " n"]) -> PassageBaselines:
            return frozen_baselines(store, release, config, studies, passages, dictionaries, rows)

        return cls(config, studies.with_problems(problems), passages, inputs, dictionaries, baselines)

    @cached_property
    def judge(self) -> PassageJudge:
        """Compares what is written with the reports."""
        return PassageJudge.of(self.passages, self.parser)

    @cached_property
    def pieces(self) -> PassagePieces:
        """Of the language model; a vocabulary of its own is that of all training studies."""
        names = {self.studies.study_ids[row] for row in self.studies.of(TRAIN)}
        texts = [text for (name, _), text in self.passages.texts.items() if name in names]
        return pieces_for(self.config.report, [*texts, *map(self._normal, self.passages.organs)])

    def _normal(self, organ: str) -> str:
        return normal_prompts(self.dictionaries.organs[organ])[0]

    def network(self, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> ReportNetwork:
        """The model with a writer whose features are standardised over the training organs."""
        model, organs = initial_model(initialization), self.passages.organs
        width = raw_width(model, reads_global_image(initialization.release, self.config))
        network = ReportNetwork(model, build_writer(width, organs, self.pieces, self.config.report))
        mark_trainable(model, initialization.mode, self.config.fit.rank)
        network.to(initialization.device)
        self._standardise(network, self.inputs[initialization.name], rows)
        return network

    def _standardise(self, network: ReportNetwork, inputs: OrganInputs, rows: Int[np.ndarray, " n"]) -> None:
        device = network.head.mean.device
        instances, _ = inputs.bags.rows(rows)
        with evaluating(network):
            parts = [
                network.read({name: value.to(device) for name, value in inputs.read(some, None).items()}).float()
                for some in in_batches(instances, 256)
            ]
        organ = torch.from_numpy(inputs.bags.organ[instances]).to(device)
        network.head.standardise(torch.cat(parts), organ)

    def loss(self, rows: Int[np.ndarray, " n"]) -> Callable[[Tensor, Tensor], Tensor]:  # noqa: ARG002
        """Nats a piece."""
        return per_piece

    def trainable(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Those that have an organ that can be read."""
        bags = next(iter(self.inputs.values())).bags
        return rows[np.isin(rows, bags.study)]

    def cached(self, initialization: Initialization) -> bool:
        """Whether features of a frozen encoder are read."""
        return isinstance(self.inputs[initialization.name], CachedFeatures)

    def batch(
        self, initialization: Initialization, rows: Int[np.ndarray, " n"], rng: np.random.Generator | None
    ) -> TaskBatch:
        """The organs of some studies, their passages and how much these count; the targets are weighted pieces."""
        inputs = self.inputs[initialization.name]
        instances, study = inputs.bags.rows(rows)
        ids, lengths, weights = self._targets(inputs.bags, instances)
        read = {
            **inputs.read(instances, rng),
            BAG_ORGAN: torch.from_numpy(inputs.bags.organ[instances]),
            BAG_STUDY: torch.from_numpy(study),
            TEXT: ids,
            WEIGHT: weights,
        }
        counts = torch.zeros(len(rows)).index_add(0, torch.from_numpy(study), weights * lengths)
        return TaskBatch(read, counts)

    def predict(self, network: nn.Module, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> pl.DataFrame:
        """study_id, patient_id, organ, text: a row for each organ that is in the scan, in reading order."""
        return self.written(network, initialization, rows, self.config.report.writing)

    def _targets(
        self, bags: Bags, instances: Int[np.ndarray, " n"]
    ) -> tuple[Int[Tensor, "n l"], Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Numbers of the pieces of passages, how many are to be written, and how much each passage counts."""
        settings, texts, weights = self.config.report, [], []
        unmentioned = settings.unmentioned
        for row in instances:
            key = (self.studies.study_ids[bags.study[row]], bags.organs[bags.organ[row]])
            text = self.passages.texts.get(key)
            if text is None and unmentioned == "normal":
                text = self._normal(key[1])
            weights.append(0.0 if text is None and unmentioned == "skip" else 1.0)
            if key in self.passages.affirming:
                weights[-1] *= settings.abnormal
            texts.append(text or "")
        ids, lengths = self.pieces.encode(texts, settings.length)
        return ids, lengths, torch.tensor(weights)

    def written(
        self, network: nn.Module, initialization: Initialization, rows: Int[np.ndarray, " n"], writing: WritingSettings
    ) -> pl.DataFrame:
        """The same, written in a way of one's own."""
        assert isinstance(network, ReportNetwork)
        inputs, found = self.inputs[initialization.name], []
        with evaluating(network):
            for some in in_batches(rows, max(self.config.fit.batch, 1)):
                instances, study = inputs.bags.rows(some)
                read = {n: v.to(initialization.device) for n, v in inputs.read(instances, None).items()}
                organ = torch.from_numpy(inputs.bags.organ[instances])
                texts = network.head.write(network.read(read), organ.to(initialization.device), writing)
                for row, number, several in zip(some[study], organ.tolist(), texts, strict=True):
                    name = inputs.bags.organs[number]
                    text = first_sound(several, name, self.parser) if writing.constrain != "none" else several[0]
                    found.append((int(row), number, name, text))
        found.sort(key=lambda one: one[:2])
        return pl.DataFrame(
            {
                "study_id": [self.studies.study_ids[row] for row, *_ in found],
                "patient_id": [self.studies.patients[row] for row, *_ in found],
                "organ": [name for _, _, name, _ in found],
                "text": [text for *_, text in found],
            },
            schema=dict.fromkeys(("study_id", "patient_id", "organ", "text"), pl.String),
        )

    def measure(self, objective: TaskObjective, initialization: Initialization) -> dict[str, float]:
        """F1 of facts of the likeliest passages, and nats a piece."""
        rows = self.studies.of(VAL)
        if not len(rows):
            return {}
        table = self.written(objective.network, initialization, rows, WritingSettings())
        counts = self.judge.counts(table, [self.studies.study_ids[row] for row in rows])
        lost, pieces = 0.0, 0.0
        for some in in_batches(rows, self.config.fit.batch):
            batch = self.batch(initialization, some, None).to(initialization.device)
            lost += float(objective.network(batch.inputs, len(batch)).sum())
            pieces += float(batch.targets.sum())
        return {f"val_{self.score}": clinical_f1(counts), LOSS: lost / max(pieces, 1.0)}

    def _draws(self, run: FinishedRun, patients: BootstrapPatients) -> Draws:
        if run.run.key not in self._scored:
            self._scored[run.run.key] = self.judge.draws(run.table("scores"), patients)
        return self._scored[run.run.key]

    def draws(self, run: FinishedRun, patients: BootstrapPatients) -> Float[np.ndarray, " draws"]:
        """F1 of facts."""
        return self._draws(run, patients)[self.score]

    def results(self, runs: Sequence[FinishedRun]) -> TaskResults:
        """Every metric of every run, and the baselines on the same patients."""
        patients, settings = BootstrapPatients.of(self.studies, self.config.evaluate), self.config.report

        def more(seeds: Sequence[FinishedRun]) -> dict[str, Interval | float]:
            each = [self._draws(run, patients) for run in seeds]
            return {
                name: interval_of(np.mean([one[name] for one in each], 0)) for name in each[0] if name != self.score
            }

        compared = compare_runs(runs, lambda run: self.draws(run, patients), f"val_{self.score}", more)
        largest, first = max(self.config.fractions), self.config.seeds[0]
        rows = self.studies.subset(largest, first)
        tables = {} if self.baselines is None else written_baselines(self.baselines(rows), settings.baselines)
        made = {name: self.judge.draws(table, patients) for name, table in tables.items()}
        main = [run for run in runs if run.run.initialization == runs[0].run.initialization]
        mine = np.mean([self.draws(run, patients) for run in main if run.run.fraction == largest], 0)
        known = len({self.studies.patients[row] for row in rows})
        compared["points"] += tuple(self._baseline_point(name, draws, largest, known) for name, draws in made.items())
        compared["differences"] += tuple(
            Difference(runs[0].run.initialization, largest, name, largest, interval_of(mine - draws[self.score]))
            for name, draws in made.items()
        )
        lacking = [name for name in settings.baselines if name not in made]
        return TaskResults(
            task="report",
            metric=self.score,
            studies=len(patients.study_ids),
            patients=patients.weights.shape[1],
            problems=self.studies.problems,
            notes=tuple(_notes(lacking)),
            **compared,
        )

    def _baseline_point(self, name: str, draws: Draws, fraction: float, patients: int) -> LabelShare:
        score = draws[self.score]
        rest: dict[str, Interval | float] = {n: interval_of(one) for n, one in draws.items() if n != self.score}
        return LabelShare(name, "baseline", fraction, patients, interval_of(score), (float(score[0]),), rest)

    def save(
        self, out: Path, initialization: Initialization, network: nn.Module, results: TaskResults, run: FinishedRun
    ) -> TaskResults:
        """``out/model`` with the encoder as it is now, ``out/head`` with what writes."""
        del run
        assert isinstance(network, ReportNetwork)
        release = tuned_release(initialization, network.model)
        if initialization.mode not in FROZEN:
            release.calibration = {}
        save_tuned_release(out / "model", release, initialization.mode, results)
        save_writer(network.head, out / "head")
        return results


def _notes(lacking: Sequence[str]) -> Iterator[str]:
    yield "Facts are (organ, abnormality, status, side) as the parser reads them; affirmed_f1 is of affirmed ones."
    if not has_wordnet():
        yield f"METEOR is unavailable: WordNet is not at {WORDNET} (Debian: wordnet-base)."
    for name in lacking:
        yield f"No baseline {name}: the model was trained without texts."


def _reported(store: Store, passages: Passages, splits: Mapping[str, str]) -> Studies:
    """The studies that have a passage and a split.

    Raises:
        CohortError: code ``empty_split``: no report to learn from or to judge by; ``no_reports``.
    """
    patients = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    with_text = {name for name, _ in passages.texts}
    problems = [
        UnusedInput("no_report", name, "No report of it speaks of an organ that is written about.")
        for name in store.study_ids
        if name not in with_text
    ]
    problems += [
        UnusedInput("no_split", name, "It has a report, but is in no split.")
        for name in sorted(with_text)
        if name not in splits
    ]
    names = tuple(name for name in store.study_ids if name in with_text and name in splits)
    for split in (TRAIN, TEST):
        if not any(splits[name] == split for name in names):
            raise CohortError(
                f"No study of the split {split!r} has a report that speaks of an organ that can be read "
                f"({len(problems)} studies could not be used).",
                code="empty_split",
                fix="Give the cohort reports before preprocessing, or lower report.least.",
            )
    return Studies(
        (Target("report", passages.organs),),
        names,
        np.zeros((len(names), 1), np.float32),
        tuple(patients[name] for name in names),
        tuple(splits[name] for name in names),
        tuple(problems),
    )
