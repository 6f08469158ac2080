"""``finetune``: a trained model, a store and a label table become a tuned model and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from ctglip.errors import ConfigError
from ctglip.files import atomic_path, file_checksum, write_json, write_text
from ctglip.inference.cxr_encoding import cxr_places, reading_of, visible_on_radiographs
from ctglip.inference.scoring import Calibration, dictionaries_of
from ctglip.models.release import Release
from ctglip.pages.report import render
from ctglip.store.tables import Store
from ctglip.tasks.calibration import calibrate_texts
from ctglip.tasks.initializations import open_records, starts_of, weights_of
from ctglip.tasks.inputs import Source, kept_source, live_source
from ctglip.tasks.network import FROZEN, Network, Start, reads_whole, speaks
from ctglip.tasks.page import finetune_page
from ctglip.tasks.release import save_tuned
from ctglip.tasks.results import FinetuneResults, results_of
from ctglip.tasks.runs import Cell, CellResult, network_of, run_cell
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.studies import Studies, join, unanswerable
from ctglip.tasks.targets import Problem, read_tasks
from ctglip.training.allocator import keep_freed_memory
from ctglip.training.launch import resolve_device
from ctglip.training.record import fingerprint

Progress = Callable[[int, int], None]


def finetune(
    run: Path,
    store: Path,
    out: Path,
    labels: Path,
    config: FinetuneConfig | None = None,
    resume: bool = False,
    encoding: Progress | None = None,
    progress: Progress | None = None,
) -> FinetuneResults:
    """Fine-tune a model on labels, and judge it beside other starts.

    Args:
        run: a run, or its ``model/`` folder.
        store: made by the model's recipe.
        out: folder to write: config.resolved.yaml, environment.json, metrics.jsonl, cells/, model/ (which
            ``load_model`` reads), head/, results.json, scores.parquet, attention.parquet, problems.csv, report.html.
        labels: label table.
        config: what to do.
        resume: go on with the cells that are missing.
        encoding: called with (organs done, organs) while organs are encoded or cut.
        progress: called with (passes done, passes) of all fits.

    Raises:
        ConfigError: the folder holds another fine-tuning, or one that is not resumed.
        CohortError: faults of the label table.
        ModelError, StoreError: no model or store, or they do not fit.
        CTGLIPError: nothing can be judged.
    """
    config = config or FinetuneConfig()
    if config.task != "classification":
        raise ConfigError(f"task: {config.task} takes no label table.", fix="Call finetune.segment.segment.")
    opened, device = Store.open(store), resolve_device(config.fit.device)
    keep_freed_memory(device)
    starts = starts_of(run, config, config.mode, device)
    main = starts[0]
    whole = main.release.cxr is not None and reads_whole(main.release, config)
    organs = [] if whole else _readable(main.release, opened)
    table = read_tasks(labels, dictionaries_of(main.release), organs, config.columns, config.ignore, whole)
    studies = join(table, opened)
    open_records(
        out, config, device, [file_checksum(labels), fingerprint(opened), *(weights_of(s) for s in starts)], resume
    )
    sources, studies = _sources(starts, opened, studies, config, encoding)
    cells = [
        Cell(start.name, fraction, seed) for start in starts for fraction in config.fractions for seed in config.seeds
    ]
    found = _run_cells(cells, starts, sources, studies, config, out, progress)
    source = f"label table {labels.name}"
    results, best, scores, judged = results_of(found, studies, config.judge, main.name, studies.problems, source)
    network = best.load(network_of(best.cell, main, sources[main.name], studies, config))
    results, calibration = _with_texts(results, main, network, sources[main.name], studies, source)
    organs = sources[main.name].bags.organs
    save_tuned(out, main, network, studies.tasks, organs, results, best, calibration)
    _write(out, results, found, best)
    dictionaries = dictionaries_of(main.release)
    write_text(out / "report.html", render(finetune_page(results, studies, scores, judged, dictionaries)))
    return results


def _with_texts(
    results: FinetuneResults, main: Start, network: Network, source: Source, studies: Studies, labels: str
) -> tuple[FinetuneResults, Calibration | None]:
    """How well the tuned model's answers to texts are calibrated, and their calibration; none where it has no texts."""
    if main.mode == "probe" or not speaks(main.release, network.whole):
        return results, None
    texts = calibrate_texts(main.release, network, source, studies, labels)
    calibrated = replace(results.calibration, texts=texts.error)
    return replace(results, calibration=calibrated, notes=(*results.notes, texts.note)), texts.calibration


def _readable(release: Release, store: Store) -> list[str]:
    """Organs that the model was trained on (all that it knows, where that is not written) and that the store has."""
    known = release.provenance.get("trained") or release.organs
    if release.cxr is None:
        present = set(store.table("organs")["organ"].unique())
    else:
        shown = visible_on_radiographs(dictionaries_of(release).organs)
        instances = cxr_places(store, store.study_ids, shown, reading_of(release.model), release)
        present = {instance.organ for instance in instances}
    return [name for name in release.organs if name in known and name in present]


def _sources(
    starts: Sequence[Start], store: Store, studies: Studies, config: FinetuneConfig, progress: Progress | None
) -> tuple[dict[str, Source], Studies]:
    """The organs of each start, and the labels that every one of them can answer."""
    made: dict[tuple[int, bool], Source] = {}
    found: dict[str, Source] = {}
    problems: dict[Problem, None] = {}
    for start in starts:
        frozen = start.mode in FROZEN
        key = (id(start.release), frozen)
        if key not in made:
            make = kept_source if frozen else live_source
            made[key] = make(store, start.release, studies, config, progress)
            problems |= {Problem("unreadable", f.study_id, f.message): None for f in made[key].failures}
        found[start.name] = made[key]
        studies, lacking = unanswerable(studies, made[key].bags)
        problems |= dict.fromkeys(lacking)
    return found, studies.with_problems(tuple(problems))


def _run_cells(
    cells: Sequence[Cell],
    starts: Sequence[Start],
    sources: dict[str, Source],
    studies: Studies,
    config: FinetuneConfig,
    out: Path,
    progress: Progress | None,
) -> list[CellResult]:
    named = {start.name: start for start in starts}
    epochs = [(config.scratch_fit if named[cell.start].random else config.fit).epochs for cell in cells]
    found = []
    for number, cell in enumerate(cells):
        before = sum(epochs[:number])

        def report(done: int, _: int, before: int = before) -> None:
            if progress:
                progress(before + done, sum(epochs))

        start = named[cell.start]
        found.append(run_cell(cell, start, sources[start.name], studies, config, out / "cells", report))
        report(epochs[number], 0)
    return found


def _write(out: Path, results: FinetuneResults, cells: Sequence[CellResult], best: CellResult) -> None:
    write_json(out / "results.json", results.to_json())
    with atomic_path(out / "scores.parquet") as temporary:
        best.scores().write_parquet(temporary)
    with atomic_path(out / "attention.parquet") as temporary:
        best.attention().write_parquet(temporary)
    with atomic_path(out / "problems.csv") as temporary:
        rows = [asdict(problem) for problem in results.problems]
        schema = {"code": pl.String, "subject": pl.String, "message": pl.String}
        pl.DataFrame(rows, schema=schema).write_csv(temporary)
    lines = [
        {"cell": cell.cell.key, "pass": number, "auroc_val": auroc, "loss_val": loss}
        for cell in cells
        for number, (auroc, loss) in enumerate(zip(cell.about["auroc"], cell.about["loss"], strict=True))
    ]
    write_text(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
