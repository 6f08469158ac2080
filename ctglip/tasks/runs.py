"""One cell of a fine-tuning: a start, a share of the labels and a seed become predictions, kept in a folder of its own.

A cell's folder is there whole or not at all, so a run that was interrupted goes on with the cells that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from ctglip.files import atomic_path, read_json, remove, write_json
from ctglip.tasks.calibration import LogitCalibration, as_plain, fit_logits
from ctglip.tasks.fit import Fit, Predictions, standardise
from ctglip.tasks.inputs import Kept, Source, wanted_organs
from ctglip.tasks.losses import LabelLoss
from ctglip.tasks.network import Network, Start, build_network
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.studies import TEST, VAL, Studies
from ctglip.tasks.targets import Task

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Cell:
    """What one fit is.

    Attributes:
        start: the name of the start.
        fraction: share of the training patients.
        seed: of subset, new weights and batches.
    """

    start: str
    fraction: float
    seed: int

    @property
    def key(self) -> str:
        """Name of its folder."""
        return f"{self.start}-{self.fraction:g}-{self.seed}"


@dataclass(frozen=True)
class CellResult:
    """A cell that is done.

    Attributes:
        cell: which.
        folder: where it is: ``scores.parquet``, ``attention.parquet``, ``weights.safetensors``.
        about: patients and studies, the pass that was kept, the history of the validation, columns that the subset
            knows one answer of, the calibration.
    """

    cell: Cell
    folder: Path
    about: Mapping[str, Any]

    def scores(self) -> pl.DataFrame:
        """split, study_id, patient_id, column, class, label, logit, uncalibrated, probability."""
        return pl.read_parquet(self.folder / "scores.parquet")

    def attention(self) -> pl.DataFrame:
        """study_id, column, organ, share: of the test studies."""
        return pl.read_parquet(self.folder / "attention.parquet")

    def load(self, network: Network) -> Network:
        """Put the kept weights into a network of the same start."""
        state = load_file(self.folder / "weights.safetensors")
        network.load_state_dict({name: value.to(next(network.parameters()).device) for name, value in state.items()},
                                strict=False)  # fmt: skip
        return network.eval()


def network_of(cell: Cell, start: Start, source: Source, studies: Studies, config: FinetuneConfig) -> Network:
    """A cell's network before its first step: the same each time."""
    torch.manual_seed(cell.seed)
    network = build_network(start, studies.tasks, wanted_organs(studies.tasks), config)
    standardise(network, source, studies.subset(cell.fraction, cell.seed))
    return network


def run_cell(
    cell: Cell,
    start: Start,
    source: Source,
    studies: Studies,
    config: FinetuneConfig,
    folder: Path,
    progress: Progress | None = None,
) -> CellResult:
    """Fit one cell, or read it where it is done already.

    Args:
        cell: which.
        start: where it begins.
        source: the start's organs.
        studies: labels.
        config: of the whole fine-tuning.
        folder: the cell's folder is made inside it.
        progress: called with (passes done, passes).
    """
    target = folder / cell.key
    if (target / "cell.json").is_file():
        return CellResult(cell, target, read_json(target / "cell.json"))
    with _few_threads(source):
        return _fitted(cell, start, source, studies, config, target, progress)


@contextmanager
def _few_threads(source: Source) -> Iterator[None]:
    """One thread where features are read from memory: a step is a product of small matrices, over which several threads
    wait for each other longer than they count (seven times the processor time on two busy cores)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if isinstance(source, Kept) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fitted(
    cell: Cell,
    start: Start,
    source: Source,
    studies: Studies,
    config: FinetuneConfig,
    target: Path,
    progress: Progress | None,
) -> CellResult:
    """Fit one cell and write its folder."""
    fit, optim = (config.scratch_fit, config.scratch_optim) if start.random else (config.fit, config.optim)
    train, val, test = studies.subset(cell.fraction, cell.seed), studies.of(VAL), studies.of(TEST)
    network = network_of(cell, start, source, studies, config)
    loss = LabelLoss(studies.tasks, studies.values[train], config.loss)
    checkpoints = target.with_name(f".{cell.key}.fit") if start.mode in ("lora", "full") else None
    work = Fit(network, source, studies.tasks, studies.values, train, val, loss, fit, optim, cell.seed,
               checkpoints)  # fmt: skip
    done = work.run(progress)
    said = {VAL: work.predict(val), TEST: work.predict(test)}
    calibration = fit_logits(said[VAL].logits, studies.values[val], studies.tasks)
    about = {
        "start": cell.start,
        "mode": start.mode,
        "fraction": cell.fraction,
        "seed": cell.seed,
        "studies": len(train),
        "patients": len({studies.patients[row] for row in train}),
        "one_class": _one_class(studies, train),
        "calibration": as_plain(calibration),
        **asdict(done),
    }
    tables = [
        score_table(studies, split, studies.of(split), found, calibration)
        for split, found in said.items()
        if len(found.logits)
    ]
    with atomic_path(target) as temporary:
        temporary.mkdir()
        pl.concat(tables).write_parquet(temporary / "scores.parquet")
        attention_table(studies, source, said[TEST]).write_parquet(temporary / "attention.parquet")
        save_file({name: value.cpu().contiguous() for name, value in work.kept.items()},
                  temporary / "weights.safetensors")  # fmt: skip
        write_json(temporary / "cell.json", about)
    if checkpoints is not None:
        remove(checkpoints)
    return CellResult(cell, target, about)


def _one_class(studies: Studies, rows: np.ndarray) -> list[str]:
    """Columns of which some studies know one answer at most."""
    values = studies.values[rows]
    counts = [len(np.unique(values[np.isfinite(values[:, n]), n])) for n in range(values.shape[1])]
    return [task.column for task, count in zip(studies.tasks, counts, strict=True) if count < 2]


def score_table(
    studies: Studies, split: str, rows: np.ndarray, said: Predictions, calibration: LogitCalibration
) -> pl.DataFrame:
    """One row for each study, column and class; the label is 1 or 0, or null where it is not known."""
    every = said.logits.astype(np.float64)
    calibrated = calibration.logits(every)
    frames, start = [], 0
    for number, task in enumerate(studies.tasks):
        here = slice(start, start + task.width)
        logits, plain = every[:, here], probabilities_of(every[:, here], task)
        probabilities = probabilities_of(calibrated[:, here], task)
        values = studies.values[rows, number]
        for position in range(task.width):
            truth = np.where(np.isfinite(values), values == (position if task.classes else 1), np.nan)
            frames.append(
                pl.DataFrame(
                    {
                        "split": split,
                        "study_id": [studies.study_ids[row] for row in rows],
                        "patient_id": [studies.patients[row] for row in rows],
                        "column": task.column,
                        "class": task.classes[position] if task.classes else "",
                        "label": pl.Series(truth, dtype=pl.Float64).fill_nan(None).cast(pl.Int8),
                        "logit": logits[:, position],
                        "uncalibrated": plain[:, position],
                        "probability": probabilities[:, position],
                    }
                )
            )
        start += task.width
    return pl.concat(frames)


def probabilities_of(logits: np.ndarray, task: Task) -> np.ndarray:
    """Sigmoid of a binary column, softmax over the classes of another."""
    if not task.classes:
        return 1.0 / (1.0 + np.exp(-np.clip(logits, -60, 60)))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def attention_table(studies: Studies, source: Source, said: Predictions) -> pl.DataFrame:
    """study_id, column, organ, share: what each organ of a column counted in each study."""
    bags = source.bags
    frames = []
    for number, task in enumerate(studies.tasks):
        rows = [position for position, row in enumerate(said.rows) if bags.organs[bags.organ[row]] in task.organs]
        frames.append(
            pl.DataFrame(
                {
                    "study_id": [studies.study_ids[bags.study[said.rows[position]]] for position in rows],
                    "column": task.column,
                    "organ": [bags.organs[bags.organ[said.rows[position]]] for position in rows],
                    "share": said.attention[rows, number].astype(np.float64),
                },
                schema={"study_id": pl.String, "column": pl.String, "organ": pl.String, "share": pl.Float64},
            )
        )
    return pl.concat(frames)


def attention_means(table: pl.DataFrame, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean share of each organ, for each column that is read from several."""
    means = table.group_by("column", "organ").agg(pl.col("share").mean()).sort("column", "share", descending=True)
    found: dict[str, dict[str, float]] = {column: {} for column in columns}
    for column, organ, share in means.select("column", "organ", "share").iter_rows():
        found[column][organ] = float(share)
    return {column: shares for column, shares in found.items() if len(shares) > 1}
