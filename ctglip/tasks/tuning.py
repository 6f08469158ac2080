"""``finetune``: a trained model, a store and a task become a tuned model and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from ctglip.errors import ConfigError
from ctglip.files import atomic_path, exclusive, file_checksum, write_json, write_text
from ctglip.models.device import resolve_device
from ctglip.models.encoders.cached import encoder_hash
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.table_files import no_formulas
from ctglip.tasks.base import Initialization, Task
from ctglip.tasks.classification import Classification
from ctglip.tasks.ct_segmentation import CtSegmentation
from ctglip.tasks.report_generation import ReportGeneration
from ctglip.tasks.results import FinishedRun, TaskResults, TaskRun, released_run
from ctglip.tasks.runs import initial_network, train_run
from ctglip.tasks.segmentation import Segmentation
from ctglip.tasks.settings import SCRATCH, ClassificationConfig, FinetuneConfig
from ctglip.tasks.starts import encoder_release, names_encoder
from ctglip.training.allocator import keep_freed_memory
from ctglip.training.callbacks import Callbacks
from ctglip.training.record import begin_run, check_run, fingerprint

TASKS: dict[str, type[Task[Any]]] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "ct_segmentation": CtSegmentation,
    "report": ReportGeneration,
}
"""Tasks by the config's ``task``."""


def finetune(
    run: Path,
    store: Path,
    out: Path,
    labels: Path | None = None,
    config: FinetuneConfig | None = None,
    resume: bool = False,
    callbacks: Callbacks | None = None,
) -> TaskResults:
    """Fine-tune a model, and compare it with other initializations.

    Args:
        run: a run, or its ``model/`` folder; of scans also ``NAME=WEIGHTS`` or ``NAME`` of an encoder, see
            ``ctglip.tasks.starts``.
        store: made by the model's recipe.
        out: folder to write: config.resolved.yaml, environment.json, metrics.jsonl, runs/, model/ (which
            ``load_model`` reads), head/, results.json, the released run's tables (scores.parquet), problems.csv, and
            report.html where the task has a page.
        labels: label table, for tasks that learn from one.
        config: what to do.
        resume: go on with what is missing.
        callbacks: ``preparing`` is called while images are read or encoded, ``progress`` with (epochs done, epochs) of
            all runs, ``message`` with the runs that are skipped.

    Raises:
        ConfigError: no such task; the folder holds another fine-tuning, or one that is not resumed.
        CohortError: faults of the label table, or there is nothing to learn from.
        ModelError, StoreError: no model or store, or they do not fit.
        CTGLIPError: nothing can be compared.
        OutputError: another process is writing to ``out``.
        Stopped: ``callbacks.stop`` asked for it.
    """
    config, callbacks = config or ClassificationConfig(), callbacks or Callbacks()
    if config.task not in TASKS:
        raise ConfigError(f"There is no task {config.task!r}.", fix=f"There are {', '.join(sorted(TASKS))}.")
    if (labels is not None) != TASKS[config.task].from_labels:
        raise ConfigError(f"task: {config.task} learns from {'the store' if labels else 'a label table'}.",
                          fix="Leave --labels out." if labels else "Name one: --labels labels.csv")  # fmt: skip
    opened, device = Store.open(store), resolve_device(config.fit.device)
    keep_freed_memory(device)
    initializations = _initializations(run, opened, config, device)
    inputs = {"studies": fingerprint(opened)} | ({"labels": file_checksum(labels)} if labels else {})
    inputs |= {f"weights of {one.name}": _weights_checksum(one) for one in initializations}
    check_run(out, config, inputs, resume)
    task = TASKS[config.task].open(opened, initializations, config, labels, callbacks)
    with exclusive(out):
        begin_run(out, config, inputs, device)
        return _tune(task, initializations, out, callbacks)


def _tune(task: Task[Any], initializations: Sequence[Initialization], out: Path, callbacks: Callbacks) -> TaskResults:
    """Train what is not yet trained, choose the best by its validation, save it and what was measured."""
    config = task.config
    runs = [
        TaskRun(one.name, fraction, seed)
        for one in initializations
        for fraction in config.fractions
        for seed in config.seeds
    ]
    finished = _train(runs, {one.name: one for one in initializations}, task, out / "runs", callbacks)
    results, best = task.results(finished), released_run(finished, f"val_{task.score}")
    network = best.load(initial_network(task, initializations[0], best.run))
    results = task.save(out, initializations[0], network, results, best)
    _write(out, results, finished, best)
    if page := task.page(results, best):
        write_text(out / "report.html", page)
    return results


def _train(
    runs: Sequence[TaskRun],
    initializations: Mapping[str, Initialization],
    task: Task[Any],
    folder: Path,
    callbacks: Callbacks,
) -> list[FinishedRun]:
    config, finished = task.config, []
    epochs = [(config.scratch_fit if initializations[one.initialization].random else config.fit).epochs for one in runs]
    for number, one in enumerate(runs):
        before = sum(epochs[:number])

        def report(done: int, _: int, before: int = before) -> None:
            if callbacks.progress:
                callbacks.progress(before + done, sum(epochs))

        reporting = replace(callbacks, progress=report)
        finished.append(train_run(task, one, initializations[one.initialization], folder, reporting))
        report(epochs[number], 0)
    return finished


def _write(out: Path, results: TaskResults, finished: Sequence[FinishedRun], best: FinishedRun) -> None:
    write_json(out / "results.json", results.to_json())
    for file in best.folder.glob("*.parquet"):
        with atomic_path(out / file.name) as temporary:
            best.table(file.stem).write_parquet(temporary)
    with atomic_path(out / "problems.csv") as temporary:
        schema = {"code": pl.String, "subject": pl.String, "message": pl.String}
        no_formulas(pl.DataFrame([asdict(problem) for problem in results.problems], schema=schema)).write_csv(temporary)
    lines = [{"run": one.run.key, **values} for one in finished for values in one.about["validations"]]
    write_text(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _initializations(run: Path, store: Store, config: FinetuneConfig, device: str) -> list[Initialization]:
    """The model's own, then the baselines; each has a name of its own."""
    first = _initialization(str(run), store, config, device)
    found = [first]
    for baseline in config.baselines:
        if baseline == SCRATCH:
            found.append(Initialization(SCRATCH, first.release, True, "full"))
            continue
        one = _initialization(baseline, store, config, device)
        name, taken = one.name, {other.name for other in found}
        name = next(n for n in (name, *(f"{name}_{k}" for k in range(2, 99))) if n not in taken | {SCRATCH})
        found.append(replace(one, name=name))
    return found


def _initialization(source: str, store: Store, config: FinetuneConfig, device: str) -> Initialization:
    """A run, released weights, or an encoder that is drawn and trained in full."""
    encoder = names_encoder(source)
    release = encoder_release(source, store) if encoder else load_release(Path(source))
    release.model.to(device)
    if not encoder:
        return Initialization(_name(Path(source)), release, False, config.mode)
    name, _, weights = source.partition("=")
    return Initialization(name, release, not weights, config.mode if weights else "full")


def _name(run: Path) -> str:
    run = run.resolve()
    return run.parent.name if run.name == "model" else run.name


def _weights_checksum(initialization: Initialization) -> str:
    """Of the weights that it has, or whose shape it takes."""
    folder = initialization.release.folder
    if folder is None:
        return "drawn" if initialization.random else encoder_hash(initialization.release.model.encoder)
    return file_checksum(folder / "model.safetensors")
