"""What every fine-tuning found, whatever its task: each initialization at each share of the labels, compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import nn

from ctglip.evaluation.bootstrap import draw_patients, interval_of
from ctglip.pages.wording import format_interval
from ctglip.tasks.settings import EvalSettings
from ctglip.tasks.studies import TEST, Studies, UnusedInput
from ctglip.types import Interval


@dataclass(frozen=True)
class TaskRun:
    """One training: an initialization, a share of the training patients, and the seed of subset, new weights and
    batches."""

    initialization: str
    fraction: float
    seed: int

    @property
    def key(self) -> str:
        """Name of its folder."""
        return f"{self.initialization}-{self.fraction:g}-{self.seed}"


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done.

    Attributes:
        run: which.
        folder: of its tables, ``weights.safetensors`` and ``run.json``.
        about: ``run.json``: patients and studies, ``best`` of its ``validations`` (one an epoch, the first before any
            training), and what the task adds.
    """

    run: TaskRun
    folder: Path
    about: Mapping[str, Any]

    def table(self, name: str) -> pl.DataFrame:
        """One of its tables."""
        return pl.read_parquet(self.folder / f"{name}.parquet")

    def best(self, score: str) -> float:
        """The best validation; 0 where nothing was validated."""
        return self.about["validations"][self.about["best"]].get(score, 0.0)

    def load(self, network: nn.Module) -> nn.Module:
        """Put the kept weights into a network of the same initialization."""
        network.load_state_dict(load_file(self.folder / "weights.safetensors"), strict=False)
        return network.eval()


@dataclass(frozen=True)
class LabelShare:
    """One initialization at one share of the labels, mean over seeds.

    Attributes:
        initialization, mode, fraction: which, and what was trained.
        patients: how many of the training split, of the first seed (subsets are alike).
        score: mean over seeds, with the interval over test patients of that mean.
        seeds: each seed's.
        more: other numbers of the task.
    """

    initialization: str
    mode: str
    fraction: float
    patients: int
    score: Interval
    seeds: tuple[float | None, ...]
    more: dict[str, Interval | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Score of one initialization and share minus that of another, on the same test patients, draw by draw."""

    initialization: str
    fraction: float
    other: str
    other_fraction: float
    difference: Interval


@dataclass(frozen=True, kw_only=True)
class TaskResults:
    """One fine-tuning.

    Attributes:
        task: which.
        metric: name of the score.
        mode: what was trained of the model's own initialization.
        studies, patients: of the test split.
        released: initialization, fraction and seed of the model that is kept: the seed that validates best on most
            labels.
        score: of that model.
        points: every initialization at every share.
        differences: the model's own initialization against the others.
        problems: what of the input could not be used.
        notes: what the reader must bear in mind.
    """

    task: str
    metric: str
    mode: str
    studies: int
    patients: int
    released: dict[str, Any]
    score: Interval
    points: tuple[LabelShare, ...]
    differences: tuple[Difference, ...]
    problems: tuple[UnusedInput, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def summary(self) -> str:
        """What was learned, in a sentence."""
        return (
            f"{self.task}: {self.metric} {format_interval(self.score)} on {self.patients} patients of the split {TEST}."
        )

    def headline(self) -> str:
        """The result as a few lines."""
        lines = [self.summary()]
        for point in self.points:
            numbers = {self.metric: point.score, **point.more}
            listed = (
                f"{name} {format_interval(value) if isinstance(value, Interval) else f'{value:.3f}'}"
                for name, value in numbers.items()
            )
            lines.append(f"{point.initialization} ({point.mode}) at {point.fraction:.0%}: {', '.join(listed)}")
        for one in self.differences:
            both = f"{one.initialization} at {one.fraction:.0%} minus {one.other} at {one.other_fraction:.0%}"
            lines.append(f"{both}: {format_interval(one.difference)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class BootstrapPatients:
    """The patients of the test split as all runs are compared on them.

    Attributes:
        numbers: of each test study.
        weights: of each patient in each draw; the first draw is the split itself.
        study_ids: of the test split, in the order of the rows.
    """

    numbers: Int[np.ndarray, " s"]
    weights: Float[np.ndarray, "draws patients"]
    study_ids: tuple[str, ...]

    @staticmethod
    def of(studies: Studies, settings: EvalSettings) -> BootstrapPatients:
        """Draw them."""
        rows = studies.of(TEST)
        names, numbers = np.unique([studies.patients[row] for row in rows], return_inverse=True)
        weights = draw_patients(len(names), settings.draws, np.random.default_rng(settings.seed))
        return BootstrapPatients(numbers, weights, tuple(studies.study_ids[row] for row in rows))


def released_run(runs: Sequence[FinishedRun], score: str) -> FinishedRun:
    """Of the first run's initialization, with most labels, the seed that validates best (the first of equals)."""
    same_initialization = [one for one in runs if one.run.initialization == runs[0].run.initialization]
    largest = max(one.run.fraction for one in same_initialization)
    return max((one for one in same_initialization if one.run.fraction == largest), key=lambda one: one.best(score))


def compare_runs(
    runs: Sequence[FinishedRun],
    draws_of: Callable[[FinishedRun], Float[np.ndarray, " draws"]],
    score: str,
    more_of: Callable[[Sequence[FinishedRun]], dict[str, Interval | float]] | None = None,
) -> dict[str, Any]:
    """What ``TaskResults`` tells of runs: mode, released, score, points and differences.

    Args:
        runs: all, those of the initialization that is asked about first.
        draws_of: the score of one on the test split, then of each draw of its patients.
        score: of validations, by which the model that is released is chosen.
        more_of: other numbers of the seeds of a point.
    """
    groups: dict[tuple[str, float], list[FinishedRun]] = {}
    for one in runs:
        groups.setdefault((one.run.initialization, one.run.fraction), []).append(one)
    points, draws, released = [], {}, released_run(runs, score)
    for key, seeds in groups.items():
        each = np.stack([draws_of(one) for one in seeds])
        draws[key] = each.mean(0)
        about, values = seeds[0].about, tuple(float(value) for value in each[:, 0])
        more = more_of(seeds) if more_of else {}
        points.append(
            LabelShare(key[0], about["mode"], key[1], about["patients"], interval_of(draws[key]), values, more)
        )
    main, largest = runs[0].run.initialization, max(one.run.fraction for one in runs)
    differences = tuple(
        Difference(mine[0], mine[1], other[0], other[1], interval_of(draws[mine] - draws[other]))
        for mine in draws
        for other in draws
        if mine[0] == main and other[0] != main and other[1] in (mine[1], largest)
    )
    return {
        "mode": released.about["mode"],
        "released": asdict(released.run),
        "score": interval_of(draws_of(released)),
        "points": tuple(points),
        "differences": differences,
    }
