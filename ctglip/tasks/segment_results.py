"""What a fine-tuning for segmentation found: Dice of every start at every share of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctglip.evaluation.bootstrap import draw_patients, interval_of, weighted_mean
from ctglip.evaluation.results import format_interval
from ctglip.files import read_json
from ctglip.tasks.runs import Cell
from ctglip.tasks.segmentation import Drawn
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.studies import TEST, Studies
from ctglip.tasks.targets import Problem
from ctglip.types import Interval


@dataclass(frozen=True)
class SegmentationPoint:
    """One start at one share of the labels, mean over seeds.

    Attributes:
        start, fraction, patients: which.
        frozen: the encoder was left as it is.
        dice_pos: mean Dice of the radiographs that show the organ, with its interval over test patients.
        dice_all: of all radiographs; one without the organ counts 1 if nothing was drawn, else 0.
        mdice: mean of the Dice of the organ and of the rest, over all pixels.
        seeds: ``dice_all`` of each seed.
    """

    start: str
    fraction: float
    patients: int
    frozen: bool
    dice_pos: Interval
    dice_all: Interval
    mdice: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class SegmentationDifference:
    """``dice_all`` of one start and share minus that of another, on the same test patients, draw by draw."""

    start: str
    fraction: float
    other: str
    other_fraction: float
    difference: Interval


@dataclass(frozen=True)
class SegmentationResults:
    """One fine-tuning for segmentation.

    Attributes:
        organ, head: what was drawn by what.
        resolution: rows and columns on which drawings are compared with the truth.
        studies, patients, empty: radiographs of the test split, their patients, radiographs without the organ.
        released: start, fraction and seed of the model that was kept: the seed that validates best.
        points: every start at every share.
        differences: this start against the others.
        problems: what could not be used.
    """

    organ: str
    head: str
    resolution: int
    studies: int
    patients: int
    empty: int
    released: dict[str, Any]
    points: tuple[SegmentationPoint, ...]
    differences: tuple[SegmentationDifference, ...]
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def headline(self) -> str:
        """The result as a few lines."""
        lines = [
            f"Dice of {self.organ} on {self.studies} test radiographs ({self.empty} without it), {self.patients} "
            f"patients, "
            f"{self.head} at {self.resolution} x {self.resolution}:"
        ]
        for p in self.points:
            kind = "frozen" if p.frozen else "fine-tuned"
            lines.append(
                f"{p.start} ({kind}) at {p.fraction:.0%}: dice_pos {format_interval(p.dice_pos)}, "
                f"dice_all {format_interval(p.dice_all)}, mDice {p.mdice:.3f}"
            )
        lines += [
            f"{d.start} at {d.fraction:.0%} minus {d.other} at {d.other_fraction:.0%}: "
            f"{format_interval(d.difference)} dice_all"
            for d in self.differences
        ]
        return "\n".join(lines)


def results_of(
    cells: Sequence[Cell], studies: Studies, config: FinetuneConfig, resolution: int, out: Path,
    problems: Sequence[Problem],
) -> SegmentationResults:  # fmt: skip
    """All fits, judged on the radiographs of the test split: Dice with intervals over patients, and paired differences.

    Args:
        cells: the fits, those of the start that is judged first.
        studies: radiographs with patients and splits.
        config: shares of the labels, draws of patients.
        resolution: rows and columns on which drawings were compared.
        out: the run's folder, which holds the fits' scores.
        problems: what could not be used.
    """
    test = studies.of(TEST)
    names, patients = np.unique([studies.patients[row] for row in test], return_inverse=True)
    weights = draw_patients(len(names), config.judge.draws, np.random.default_rng(config.judge.seed))
    groups: dict[tuple[str, float], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.start, cell.fraction), []).append(cell)
    points, draws = [], {}
    empty = np.zeros(len(test), bool)
    for key, several in groups.items():
        tables = [pl.read_parquet(out / "cells" / cell.key / "scores.parquet") for cell in several]
        about = [read_json(out / "cells" / cell.key / "cell.json") for cell in several]
        dice, empty = np.mean([table["dice"].to_numpy() for table in tables], axis=0), tables[0]["empty"].to_numpy()
        counts = [table.select("tp", "fp", "fn", "tn").to_numpy() for table in tables]
        draws[key] = weighted_mean(dice, patients, weights)
        positive = interval_of(weighted_mean(dice[~empty], patients[~empty], weights))
        mdice = float(np.mean([Drawn(dice, empty, each).mdice for each in counts]))
        seeds = tuple(float(table["dice"].to_numpy().mean()) for table in tables)
        first = about[0]
        points.append(SegmentationPoint(*key, first["patients"], first["frozen"], positive, interval_of(draws[key]),
                                        mdice, seeds))  # fmt: skip
    main, largest = cells[0].start, max(config.fractions)
    best = max(
        groups[main, largest], key=lambda cell: max(read_json(out / "cells" / cell.key / "cell.json")["dice_val"])
    )
    differences = tuple(
        SegmentationDifference(mine[0], mine[1], other[0], other[1], interval_of(draws[mine] - draws[other]))
        for mine in draws
        for other in draws
        if mine[0] == main and other[0] != main and other[1] in (mine[1], largest)
    )
    settings = config.segmentation
    return SegmentationResults(
        settings.organ, settings.head, resolution, len(test), len(names), int(empty.sum()), asdict(best),
        tuple(points), differences, tuple(problems),
    )  # fmt: skip
