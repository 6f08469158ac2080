"""What a large cohort costs the driver of preprocessing and the checks of a store, with simulated rows.

    python benchmarks/store_scale.py --studies 20000            the driver's CPU: each study's rows are parsed
    python benchmarks/store_scale.py --studies 1000000 --copied its memory: one study's rows, copied under other ids
    python benchmarks/store_scale.py --studies 2000 --files     studies on disk, which ``store verify`` looks at
    python benchmarks/store_scale.py --quick                    all three, small: under three minutes

``--json FILE`` keeps the figures.

Each row is that of a chest scan: 90 organs, 28 findings, a report. CPU seconds are those of the process, whatever else
the machine does; memory is the most that it held.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl

ORGANS = 90
SENTENCES = (
    "The liver is enlarged.", "No gallstones.", "The spleen is normal.", "There is a nodule in the right upper lobe.",
    "No pleural effusion.", "Mild cardiomegaly.", "Degenerative changes of the thoracic spine.",
)  # fmt: skip
QUICK, QUICK_FILES = 10_000, 400
CHECKSUM = "c" * 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--files", action="store_true", help="studies on disk, and what looks at them")
    parser.add_argument("--copied", action="store_true", help="rows that are not parsed: for memory, not for CPU")
    parser.add_argument("--quick", action="store_true", help="all of it at small numbers")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ctglip_scale_", dir=options.folder) as name:
        studies = QUICK if options.quick else options.studies
        if options.quick or not (options.files or options.copied):
            found["driver"] = in_a_process(driver, studies, Path(name) / "driver")
        if options.quick or options.copied:
            found["driver, rows copied"] = in_a_process(partial(driver, copied=True), studies, Path(name) / "copied")
        if options.quick or options.files:
            studies = QUICK_FILES if options.quick else options.studies
            found["checks"] = in_a_process(checks, studies, Path(name) / "checks")
    print(as_text(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def as_text(found: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines: list[str] = []
    for part, figures in found.items():
        lines += [f"{part}, {figures['studies']} studies", *(f"  {key:36} {figures[key]:g}" for key in figures)]
    return "\n".join(lines)


def in_a_process(work: Callable[[int, Path], dict[str, float]], studies: int, folder: Path) -> dict[str, float]:
    """What a function finds in a process of its own, whose memory is that of nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, studies, folder).result()


def peak_gb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def cpu_of(work: Callable[[], Any]) -> float:
    """CPU seconds of this process that some work takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


# -- rows alone


def record_of(study_id: str, patient_id: str, recipe_hash: str, shape: tuple[int, int, int] = (16, 16, 16)) -> Any:
    """A study as preprocessing writes it, of noise with boxes for organs."""
    from ctglip.reports.parser import get_parser
    from ctglip.store.study import SourceGrid, StudyRecord
    from ctglip.types import OrganRow, Report, Standardized
    from ctglip.vocabulary.organs import load_organs

    report = Report(findings=" ".join(SENTENCES * 4))
    image = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    names = list(load_organs().label_names().values())[:ORGANS]
    rows = tuple(OrganRow(one, (1, 9, 2, 10, 3, 11), 12.25 + i, 45.5, False, 12.5) for i, one in enumerate(names))
    made = Standardized(image, np.ones(shape, np.uint8), np.diag([1.5, 1.5, 1.5, 1.0]), rows, ())
    findings = tuple(get_parser().parse(report))
    source = SourceGrid((512, 512, 300), np.diag([0.75, 0.75, 1.0, 1.0]))
    return StudyRecord(
        study_id, patient_id, made, CHECKSUM, recipe_hash, report, findings, {"age": 61.0}, source=source
    )


def driver(studies: int, folder: Path, copied: bool = False) -> dict[str, float]:
    """A whole run whose studies are done at once, then one that finds nothing to do."""
    from ctglip_preprocessing.driver import preprocess_cohort, store_info
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.cohort import read_cohort
    from ctglip.config import load_settings
    from ctglip.store.format import study_path
    from ctglip.store.study import write_study

    config = load_settings(PreprocessConfig, "preprocess/organ_crops", [])
    folder.mkdir()
    write_study(folder, record_of("t000000", "template", store_info(config).recipe_hash))
    template = (study_path(folder, "t000000") / "zarr.json").read_bytes()
    numbers = pl.DataFrame({"n": range(studies)}).select(pl.col("n").cast(pl.String).str.zfill(7))
    columns = {"study_id": "s{}", "patient_id": "p{}", "image": "images/s{}.nii.gz", "masks": "masks/s{}.nii.gz"}
    table = numbers.select(pl.format(text, "n").alias(column) for column, text in columns.items())
    table.write_parquet(folder / "cohort.parquet")
    del numbers, table
    found: dict[str, float] = {"studies": studies, "before_gb": peak_gb()}
    with simulated(template, copied):
        for name in ("first", "second"):
            found[f"{name}_reading_the_cohort_ms"] = cpu_of(partial(read_cohort, folder / "cohort.parquet"))
            cohort = read_cohort(folder / "cohort.parquet")
            found[f"{name}_run_ms"] = cpu_of(partial(preprocess_cohort, cohort, folder / "store", config))
            found[f"{name}_peak_gb"] = peak_gb()
    each = {key: 1000 * value / studies for key, value in found.items() if key.endswith("_ms")}
    size = sum(file.stat().st_size for file in (folder / "store").rglob("*.parquet") if file.is_file())
    return found | each | {"tables_kb": size / 1000 / studies}


@contextmanager
def simulated(template: bytes, copied: bool) -> Iterator[None]:
    """Studies that are done as soon as they are begun, and whose files are the template's: no file of them is there."""
    from ctglip_preprocessing import driver as run

    from ctglip.store import journal, tables
    from ctglip.store.study import StudyReader

    done: list[str] = []

    class Simulated(StudyReader):
        """The rows of the template under another id."""

        def __init__(self, path: Path, for_rows: bool = False) -> None:  # noqa: ARG002
            self.path = path
            self.attributes = json.loads(template)["attributes"]
            self.study_id = path.name.removesuffix(".zarr")
            self.patient_id = self.study_id.replace("s", "p")
            self._rows = self.attributes["rows"]
            self._rows["studies"][0]["patient_id"] = self.patient_id

    first = tables.gather([Simulated(Path("first"))])

    def copies(_: Any, ids: list[str]) -> dict[str, pl.DataFrame]:
        """The rows of the template under each of some ids."""
        every = pl.DataFrame({"study_id": ids})
        return {
            name: every.join(table.drop("study_id"), how="cross").select(table.columns) for name, table in first.items()
        }

    def work(cases: Any, *_: Any) -> Iterator[Any]:
        for case in cases:
            done.append(case.row.study_id)
            yield replace(case, checksum=CHECKSUM, seconds={"write": 0.5, "report": 0.1}).done()

    with (
        mock.patch.object(run, "execute", work),
        mock.patch.object(tables, "StudyReader", Simulated),
        mock.patch.object(journal, "study_ids", return_value=done),
        mock.patch.object(tables, "_rows_of", copies if copied else tables._rows_of),
    ):
        yield


# -- studies on disk


def checks(studies: int, folder: Path) -> dict[str, float]:
    """``store verify`` and ``store info`` with one worker and with two, of studies of 160 x 160 x 128 voxels, whose
    files are shared."""
    from ctglip.store.check import check_shard, plan_shards
    from ctglip.store.format import StoreInfo, study_path
    from ctglip.store.study import write_study
    from ctglip.store.summary import summarize
    from ctglip.store.tables import compact, create_store
    from ctglip.store.verify import verify
    from ctglip.vocabulary.organs import load_organs

    labels = dict(load_organs().label_names())
    info = StoreInfo(recipe={"spacing_mm": [1.5] * 3}, recipe_hash="simulated", labels=labels)
    store = create_store(folder, info)
    for number in range(min(studies, 20)):
        write_study(folder, record_of(f"s{number:07}", f"p{number:07}", "simulated", (160, 160, 128)))
    for number in range(20, studies):
        copy_study(study_path(folder, f"s{number % 20:07}"), study_path(folder, f"s{number:07}"))
    found: dict[str, float] = {"studies": studies}
    found["tables_cpu_ms"] = 1000 * cpu_of(lambda: compact(store)) / studies
    shards = plan_shards(store, None)
    found["shards"] = len(shards)
    found["verify_cpu_ms"] = (
        1000
        * cpu_of(lambda: [check_shard(shard) for shard in shards[:6]])
        / sum(len(shard.study_ids) for shard in shards[:6])
    )
    for workers in (1, 2):
        works = {"verify": partial(verify, store, workers=workers), "info": partial(summarize, folder, workers)}
        for name, work in works.items():
            start, own, children = time.perf_counter(), time.process_time(), children_cpu()
            work()
            found[f"{name}_{workers}_seconds"] = time.perf_counter() - start
            found[f"{name}_{workers}_own_cpu"] = time.process_time() - own
            found[f"{name}_{workers}_workers_cpu"] = children_cpu() - children
    shutil.rmtree(folder)
    return found


def children_cpu() -> float:
    """CPU seconds of processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def copy_study(source: Path, target: Path) -> None:
    """A study under another id, with the checksums that go with it."""
    from ctglip.store.study import StudyReader, _attributes_hash

    shutil.copytree(source, target, copy_function=os.link)
    file = target / "zarr.json"
    content = json.loads(file.read_text())
    file.unlink()
    attributes = content["attributes"]
    attributes["study_id"] = target.name.removesuffix(".zarr")
    attributes["checksums"]["attributes"] = _attributes_hash(attributes)
    file.write_text(json.dumps(content))
    assert not StudyReader(target).damage()


if __name__ == "__main__":
    main()
