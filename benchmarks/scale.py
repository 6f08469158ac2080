"""Time and memory before the first step of training, by the number of studies, on tables of simulated rows.

``scale.py [--quick] [--json FILE] [--studies N ...] [--folder DIR]``: stores of the tables alone (137 organs and 34
findings a study, no images), removed again unless a folder keeps them. For each number of studies: one process
derives the training tables, a second one finds them, and draws the texts of batches. Memory is the highest of each
process, less what it had before.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ORGANS, FINDINGS, BATCH = 137, 34, 128
REPORTED = 40
"""Organs that reports speak of."""
STATUSES = {"normal": 0.3, "negated": 0.4, "affirmed": 0.25, "uncertain": 0.05}


def make_store(path: Path, studies: int, seed: int = 0) -> None:
    """The tables of so many studies, each of its own patient."""
    from ctglip.store.format import TABLES, StoreInfo
    from ctglip.store.parts import FULL, write_part
    from ctglip.store.splits import SplitSettings, assign_splits
    from ctglip.store.tables import create_store
    from ctglip.vocabulary.abnormalities import load_abnormalities
    from ctglip.vocabulary.organs import load_organs

    organs, rng = load_organs(), np.random.default_rng(seed)
    names = [name for name in organs.names if organs.roi_labels(name) and load_abnormalities().of_organ(name)][:ORGANS]
    hashes = {"organs": organs.hash, "abnormalities": load_abnormalities().hash}
    info = StoreInfo(recipe={}, recipe_hash="simulated", dictionaries=hashes, labels=organs.label_names())
    store = create_store(path, info)
    for number, first in enumerate(range(0, studies, FULL)):
        ids = pl.Series("study_id", [f"s{one:07d}" for one in range(first, min(first + FULL, studies))])
        frames = _tables(ids, names, rng)

        def table(name: str, frames: dict[str, pl.DataFrame] = frames) -> pl.DataFrame:
            return pl.concat([pl.DataFrame(schema=TABLES[name]), frames.get(name, pl.DataFrame())], how="diagonal")

        write_part(path, number, table)
    assign_splits(store, SplitSettings())


def _tables(ids: pl.Series, names: list[str], rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    """The tables that are not empty, of some studies."""
    rows = len(ids) * len(names)
    edges = ("x0", "x1", "y0", "y1", "z0", "z1")
    return {
        "studies": pl.DataFrame({"study_id": ids, "patient_id": ids, "source_checksum": ids}).with_columns(
            pl.lit("simulated").alias("recipe_hash"), pl.lit("ct").alias("modality")
        ),
        "organs": pl.DataFrame({
            "study_id": ids.gather(np.repeat(np.arange(len(ids)), len(names))),
            "organ": pl.Series(names).gather(np.tile(np.arange(len(names)), len(ids))),
            **{edge: np.full(rows, number, np.int32) for number, edge in enumerate(edges)},
            "volume_ml": rng.uniform(1, 500, rows),
            "mean_hu": rng.normal(40, 20, rows),
            "touches_border": np.zeros(rows, bool),
        }),
        "findings": _findings(ids, names, rng),
    }  # fmt: skip


def _findings(ids: pl.Series, names: list[str], rng: np.random.Generator) -> pl.DataFrame:
    """Sentences of the dictionaries, every other affirmed one with a measure of its own."""
    from ctglip.vocabulary.abnormalities import load_abnormalities
    from ctglip.vocabulary.organs import load_organs
    from ctglip.vocabulary.prompts import negative_prompts, normal_prompts, positive_prompts

    organs, abnormalities = load_organs(), load_abnormalities()
    pool = []
    for organ in (organs[name] for name in names[:: max(len(names) // REPORTED, 1)]):
        pool += [("normal", organ.name, None, text) for text in normal_prompts(organ)]
        for entry in abnormalities.of_organ(organ.name):
            pool += [("negated", organ.name, entry.name, text) for text in negative_prompts(entry, organ)]
            for status in ("affirmed", "uncertain"):
                pool += [(status, organ.name, entry.name, text) for text in positive_prompts(entry, organ)]
    status = np.array([row[0] for row in pool])
    weights = sum((status == name) * share / (status == name).sum() for name, share in STATUSES.items())
    count = len(ids) * FINDINGS
    chosen, measure = rng.choice(len(pool), count, p=weights), rng.integers(2, 60, count)
    measured = np.isin(status[chosen], ("affirmed", "uncertain")) & (rng.random(count) < 0.5)
    columns = [pl.Series(column).gather(chosen) for column in zip(*pool, strict=True)]
    return pl.DataFrame({
        "study_id": ids.gather(np.repeat(np.arange(len(ids)), FINDINGS)),
        "sentence_index": np.tile(np.arange(FINDINGS, dtype=np.int32), len(ids)),
        "status": columns[0], "organ": columns[1], "abnormality": columns[2], "text": columns[3],
        "measure": measure, "measured": measured,
    }).with_columns(
        pl.lit("findings").alias("section"),
        pl.lit("parser").alias("source"),
        pl.when("measured")
        .then(pl.format("{}, {} mm.", pl.col("text").str.strip_chars_end("."), "measure"))
        .otherwise("text")
        .alias("sentence"),
    ).drop("text", "measure", "measured")  # fmt: skip


def measure_once(path: Path) -> dict[str, Any]:
    """Open the split ``train`` for training, and draw batches: CPU seconds and memory of this process."""
    from ctglip.data.organs import CropDataSettings, OrganDataset
    from ctglip.data.sampling import SamplingSettings
    from ctglip.store.tables import Store
    from ctglip.vocabulary.abnormalities import load_abnormalities
    from ctglip.vocabulary.organs import load_organs

    settings = CropDataSettings(sampling=SamplingSettings(batch=BATCH))
    settings = settings.model_copy(update={"cache": settings.cache.model_copy(update={"keep": "none"})})
    dictionaries = load_organs(), load_abnormalities()
    before, wall, cpu = _peak_gb(), time.perf_counter(), time.process_time()
    data = OrganDataset(Store.open(path), "train", *dictionaries, settings)
    found = {"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "crops": len(data)}
    found["memory_gb"] = _peak_gb() - before
    drawing = []
    for step in range(24):
        rng, start = data.sampler.rng(step), time.process_time()
        rows = data.sampler.rows(rng)
        draw_texts(data, rows, rng)
        drawing.append(time.process_time() - start)
    return {**found, "batch_ms": 1e3 * float(np.median(drawing[4:])), "first_batch_ms": 1e3 * drawing[0]}


def draw_texts(data: Any, rows: list[int], rng: np.random.Generator) -> None:
    """All that a batch draws but its images."""
    taken: dict[int, int] = {}
    for row in rows:
        data.organ_texts.draw(data.captions[row], rng, taken)


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Make the stores, open each in processes of their own on one core, print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--quick", action="store_true", help="200 and 1,000 studies: half a minute")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--folder", type=Path, help="keep the stores here")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure_once(arguments.child)))
        return
    results: dict[str, Any] = {}
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="ctglip-scale-") as scratch:
        for studies in [200, 1000] if arguments.quick else arguments.studies:
            path = (arguments.folder or Path(scratch)) / f"store-{studies}"
            if not (path / "splits.parquet").is_file():  # which is written last
                make_store(path, studies)
            shutil.rmtree(path / "derived", ignore_errors=True)
            for state in ("first run", "later run"):
                command = [sys.executable, __file__, "--child", str(path)]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
                found = results.setdefault(str(studies), {})[state] = json.loads(done.stdout)
                print(
                    f"{studies} studies, {state}: {found['crops']} crops, {found['seconds']:.1f} s "
                    f"({found['cpu_s']:.1f} s of CPU), {found['memory_gb']:.2f} GB; "
                    f"texts of a batch of {BATCH}: {found['batch_ms']:.1f} ms",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
