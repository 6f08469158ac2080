"""A simulated cohort on disk: images, masks, reports, and the truth apart from them.

``OUT/cohort.csv`` is a cohort table, ``truth.csv`` a label table, ``lesions.csv`` says where each lesion lies (in
millimetres of the scan, on radiographs in pixels), ``montage.png`` shows each abnormality beside its absence (of
radiographs, the first ones), ``simulation.json`` how all of it was made. Above the easy level the cohort table also
names each study's anatomy, contrast phase, kernel and slice thickness (truth of the simulation: no reader of cohorts
takes them up), ``mask_faults.csv`` says what is wrong with its masks, ``report_errors.csv`` with its report, and
``gallery.png`` shows the first scans. Each study is committed by its record in ``records/``; what has one from the same
settings is kept when a run is taken up again.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from ctglip.errors import CTGLIPError
from ctglip.files import atomic_path, file_checksum, read_json, value_hash, write_json
from ctglip.parallel import begin_worker
from ctglip.simulation.anatomy import Anatomy, load_template
from ctglip.simulation.cxr import CxrSettings, SimulatedCxr, chest_of, simulate_radiograph
from ctglip.simulation.lesions import KINDS
from ctglip.simulation.montage import draw_cxr_montage, draw_gallery, draw_montage
from ctglip.simulation.study import SimulatedStudy, SimulationSettings, body_of, simulate_study

VERSION = 1
"""Raised when the same settings make other studies than before."""


@dataclass(frozen=True)
class _Scans:
    """CT scans and their masks."""

    annotations: ClassVar[str] = "masks"
    suffixes: ClassVar[tuple[str, str]] = (".nii.gz", ".nii.gz")
    lesion: ClassVar[tuple[str, ...]] = ("x_mm", "y_mm", "z_mm", "radius_mm")

    def about(self) -> dict[str, Any]:
        """What decides how images are made, beside the study."""
        return {}

    def anatomy(self, template: tuple[Path, Path]) -> Anatomy:
        """A template as studies are made of it."""
        return _template(template)

    def write(
        self, job: _CohortJob, index: int, anatomy: Anatomy | None, image: Path, annotations: Path
    ) -> dict[str, Any]:
        """Simulate a study and write it; its row of the cohort, its truth and its lesions."""
        study = simulate_study(job.seed, index, job.settings, anatomy)
        _write_nifti(image, study.scan.hu, study.scan.affine)
        _write_nifti(annotations, study.labels.labels, study.labels.affine)
        errors = {"mask_faults": study.mask_faults, "report_errors": study.report_errors}
        return _record(study, {"report": study.report, **study.about}, study.truth, study.lesions, errors)

    def lesion_row(self, lesion: dict[str, Any]) -> tuple[Any, ...]:
        """Where a lesion lies, by the columns of ``lesion``."""
        return *lesion["centre_mm"], round(lesion["radius_mm"], 1)

    def draw_montage(self, job: _CohortJob, changed: bool) -> None:
        """``montage.png``: each abnormality beside its absence."""
        if changed or not (job.out / "montage.png").is_file():
            draw_montage(job.out / "montage.png", job.seed, job.settings, _anatomy(job))
        if not job.settings.easy and (changed or not (job.out / "gallery.png").is_file()):
            draw_gallery(job.out / "gallery.png", job.out / "cohort.csv")


@dataclass(frozen=True)
class _Radiographs(_Scans):
    """Chest radiographs and the boxes of their regions."""

    settings: CxrSettings
    annotations = "regions"
    suffixes = (".png", ".csv")
    lesion = ("row", "column", "radius")

    def about(self) -> dict[str, Any]:
        return {"radiographs": self.settings.model_dump(mode="json")}

    def anatomy(self, template: tuple[Path, Path]) -> Anatomy:
        return _chest(template)

    def write(
        self, job: _CohortJob, index: int, anatomy: Anatomy | None, image: Path, annotations: Path
    ) -> dict[str, Any]:
        """Simulate a radiograph, write it and its boxes, and give its record."""
        made = simulate_radiograph(job.seed, index, job.settings, self.settings, anatomy)
        _write_radiograph(image, annotations, made)
        report = {"findings": made.report.findings, "impression": made.report.impression}
        about = {name: value for name, value in made.study.about.items() if name == "anatomy"}
        columns = {"modality": "cxr", "view": made.view, **report, **about}
        return _record(made.study, columns, made.truth, made.lesions, {"report_errors": made.report_errors})

    def lesion_row(self, lesion: dict[str, Any]) -> tuple[Any, ...]:
        return lesion["row"], lesion["column"], lesion["radius"]

    def draw_montage(self, job: _CohortJob, changed: bool) -> None:
        del changed
        draw_cxr_montage(job.out / "montage.png", job.out / "cohort.csv")


@dataclass(frozen=True)
class _CohortJob:
    """What a worker needs to know beside the number of a study."""

    out: Path
    seed: int
    settings: SimulationSettings
    template: tuple[Path, Path] | None
    key: str
    kind: _Scans


def simulate_cohort(
    out: Path,
    studies: int,
    seed: int,
    settings: SimulationSettings | None = None,
    template: tuple[Path, Path] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    radiographs: CxrSettings | None = None,
) -> Path:
    """Simulate a cohort, or what is missing of it.

    Args:
        out: folder to write to.
        studies: how many; study n is the same whatever this number is.
        seed: same seed and settings, same bytes, with any number of workers.
        settings: what the cohort is like.
        template: CT and TotalSegmentator v2 masks (NIfTI) to deform in place of the built-in torso.
        workers: processes.
        progress: called with (done, total) as studies finish.
        radiographs: make chest radiographs in place of CTs, with findings and impression apart and boxes of their
        regions.

    Returns:
        the path of ``cohort.csv``.

    Raises:
        CTGLIPError: fewer than one study or worker.
        MaskError: a template whose masks do not fit.
    """
    if studies < 1 or workers < 1:
        raise CTGLIPError(
            f"Cannot simulate {studies} studies with {workers} workers.", fix="Ask for at least one of each."
        )
    settings = settings or SimulationSettings()
    kind = _Scans() if radiographs is None else _Radiographs(radiographs)
    sums = [file_checksum(path) for path in template] if template else None
    key = value_hash([VERSION, seed, settings.model_dump(mode="json"), sums, *kind.about().values()])
    job = _CohortJob(out, seed, settings, template, key, kind)
    for folder in ("images", kind.annotations, "records"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    _anatomy(job)  # a template whose masks do not fit is a fault before the first study
    missing = [index for index in range(studies) if not _is_done(job, index)]
    done = studies - len(missing)
    if progress:
        progress(done, studies)
    for count in _run(job, missing, workers):
        done += count
        if progress:
            progress(done, studies)
    records = [read_json(_record_path(out, index)) for index in range(studies)]
    _write_tables(out, records, kind)
    if not settings.easy:
        _write_errors(out, records)
    kind.draw_montage(job, bool(missing))
    _write_about(job, studies)
    return out / "cohort.csv"


def _write_about(job: _CohortJob, studies: int) -> None:
    """``simulation.json``: what the cohort was made with."""
    about = {
        "version": VERSION,
        "seed": job.seed,
        "studies": studies,
        "hash": job.key,
        "settings": job.settings.model_dump(mode="json"),
        "template": [path.name for path in job.template] if job.template else None,
        **job.kind.about(),
    }
    write_json(job.out / "simulation.json", about)


def study_id(index: int) -> str:
    """``sim-00012`` for 12."""
    return f"sim-{index:05d}"


def _record_path(out: Path, index: int) -> Path:
    return out / "records" / f"{study_id(index)}.json"


def _files(job: _CohortJob, index: int) -> tuple[Path, Path]:
    name, kind = study_id(index), job.kind
    image, annotations = kind.suffixes
    return job.out / "images" / f"{name}{image}", job.out / kind.annotations / f"{name}{annotations}"


def _is_done(job: _CohortJob, index: int) -> bool:
    record = _record_path(job.out, index)
    if not record.is_file() or not all(path.is_file() for path in _files(job, index)):
        return False
    try:
        return read_json(record)["hash"] == job.key
    except (CTGLIPError, KeyError, TypeError):
        return False


def _run(job: _CohortJob, missing: Sequence[int], workers: int) -> Iterator[int]:
    """Simulate studies, giving back how many more are done.

    Studies of one body are kept together, and each worker has its own share of the bodies: a body is painted once.
    """

    def body(index: int) -> tuple[int, bool, str] | tuple[()]:
        return () if job.template else body_of(job.seed, index, job.settings)

    ordered = sorted(missing, key=lambda index: (*body(index), index))
    workers = min(workers, len(ordered))
    if workers < 2:
        for index in ordered:
            yield _simulate_to_disk(job, [index])
        return
    with ExitStack() as stack:
        waiting = []
        for share in np.array_split(np.array(ordered), workers):
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin_worker)
            stack.callback(pool.shutdown, cancel_futures=True)
            chunks = np.array_split(share, -(-len(share) // 4))
            waiting += [pool.submit(_simulate_to_disk, job, chunk.tolist()) for chunk in chunks]
        for finished in as_completed(waiting):
            yield finished.result()


@functools.lru_cache(maxsize=1)
def _template(paths: tuple[Path, Path]) -> Anatomy:
    return load_template(*paths)


@functools.lru_cache(maxsize=1)
def _chest(paths: tuple[Path, Path]) -> Anatomy:
    return chest_of(_template(paths))


def _anatomy(job: _CohortJob) -> Anatomy | None:
    """The template as the job needs it."""
    return None if job.template is None else job.kind.anatomy(job.template)


def _simulate_to_disk(job: _CohortJob, indices: Sequence[int]) -> int:
    anatomy = _anatomy(job)
    for index in indices:
        files = _files(job, index)
        made = job.kind.write(job, index, anatomy, *files)
        paths = [str(path.relative_to(job.out)) for path in files]
        named = {"study_id": study_id(index), "patient_id": "", "image": paths[0], job.kind.annotations: paths[1]}
        row = {**named, **made.pop("row")}
        write_json(_record_path(job.out, index), {"hash": job.key, "row": row, **made})
    return len(indices)


def _record(
    study: SimulatedStudy,
    columns: dict[str, Any],
    truth: dict[str, Any],
    lesions: Sequence[Any],
    errors: Mapping[str, Sequence[tuple[str, str]]],
) -> dict[str, Any]:
    return {
        "row": {
            "patient_id": f"patient-{study.patient:05d}",
            **columns,
            "age": study.age,
            "sex": study.sex,
            "scanner": study.scanner,
        },
        "truth": truth,
        "lesions": [asdict(lesion) for lesion in lesions],
        **errors,
    }


def _write_radiograph(image: Path, regions: Path, radiograph: SimulatedCxr) -> None:
    from PIL import Image

    with atomic_path(image) as temporary:
        Image.fromarray(radiograph.radiograph.pixels).save(temporary, format="PNG", compress_level=1)
    _write_csv(regions, pl.DataFrame([region.columns() for region in radiograph.radiograph.regions]))


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """A gzipped NIfTI, by rename; the same array gives the same bytes."""
    import nibabel as nib
    from isal import igzip

    image = nib.Nifti1Image(array, affine)  # type: ignore[attr-defined]
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        temporary.write_bytes(igzip.compress(image.to_bytes(), 1, mtime=0))


def _write_tables(out: Path, records: Sequence[dict[str, Any]], kind: _Scans) -> None:
    """Cohort, truth and lesions as CSV, from the studies' records."""
    ids = [record["row"]["study_id"] for record in records]
    _write_csv(out / "cohort.csv", pl.DataFrame([record["row"] for record in records], infer_schema_length=None))
    pairs = [kind.pair for kind in KINDS if any(kind.pair in record["truth"] for record in records)]
    truth = {pair: [record["truth"].get(pair) for record in records] for pair in sorted(pairs)}
    _write_csv(out / "truth.csv", pl.DataFrame({"study_id": ids, **truth}))
    rows = [
        (name, lesion["organ"], lesion["abnormality"], *kind.lesion_row(lesion))
        for name, record in zip(ids, records, strict=True)
        for lesion in record["lesions"]
    ]
    schema = ["study_id", "organ", "abnormality", *kind.lesion]
    table = pl.DataFrame(rows, schema=schema, orient="row")
    densities = [lesion.get("density", "") for record in records for lesion in record["lesions"]]
    if any(densities):
        table = table.with_columns(pl.Series("density", densities, pl.String))
    _write_csv(out / "lesions.csv", table)


def _write_errors(out: Path, records: Sequence[dict[str, Any]]) -> None:
    """What masks and reports have wrong, as CSV."""
    for name, what, error in (("mask_faults", "organ", "fault"), ("report_errors", "pair", "error")):
        rows = [(record["row"]["study_id"], *one) for record in records for one in record.get(name, ())]
        schema = dict.fromkeys(("study_id", what, error), pl.String)
        _write_csv(out / f"{name}.csv", pl.DataFrame(rows, schema=schema, orient="row"))


def _write_csv(path: Path, table: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.write_csv(temporary)
