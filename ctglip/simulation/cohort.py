"""A simulated cohort on disk: images, masks, reports, and the truth apart from them.

``OUT/cohort.csv`` is a cohort table, ``truth.csv`` a label table, ``lesions.csv`` says where each lesion lies (in
millimetres of the scan, on radiographs in pixels), ``montage.png`` shows each abnormality beside its absence (of
radiographs, the first ones), ``simulation.json`` how all of it was made. Each study is committed by its record in
``records/``; what has one from the same settings is kept when a run is taken up again.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctglip.errors import CTGLIPError
from ctglip.files import atomic_path, file_checksum, read_json, value_hash, write_json
from ctglip.parallel import count_on_one_thread
from ctglip.simulation.anatomy import Anatomy, load_template
from ctglip.simulation.cxr import CxrSettings, SimulatedCxr, chest_of, simulate_radiograph
from ctglip.simulation.lesions import KINDS
from ctglip.simulation.montage import draw_cxr_montage, draw_montage
from ctglip.simulation.study import SimulatedStudy, SimulationSettings, body_of, simulate_study

VERSION = 1
"""Raised when the same settings make other studies than before."""
_LESION_COLUMNS = ("study_id", "organ", "abnormality", "x_mm", "y_mm", "z_mm", "radius_mm")
_CXR_LESION_COLUMNS = ("study_id", "organ", "abnormality", "row", "column", "radius")


@dataclass(frozen=True)
class _CohortJob:
    """What a worker needs to know beside the number of a study."""

    out: Path
    seed: int
    settings: SimulationSettings
    template: tuple[Path, Path] | None
    key: str
    radiographs: CxrSettings | None = None


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
    key = _key(seed, settings, template, radiographs)
    job = _CohortJob(out, seed, settings, template, key, radiographs)
    for folder in ("images", "masks" if radiographs is None else "regions", "records"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    anatomy = None if template is None else _anatomy(job)
    missing = [index for index in range(studies) if not _is_done(job, index)]
    done = studies - len(missing)
    if progress:
        progress(done, studies)
    for count in _run(job, missing, workers):
        done += count
        if progress:
            progress(done, studies)
    records = [read_json(_record_path(out, index)) for index in range(studies)]
    _write_tables(out, records, _LESION_COLUMNS if radiographs is None else _CXR_LESION_COLUMNS)
    if radiographs is not None:
        draw_cxr_montage(out / "montage.png", out / "cohort.csv")
    elif missing or not (out / "montage.png").is_file():
        draw_montage(out / "montage.png", seed, settings, anatomy)
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
    }
    if job.radiographs is not None:
        about["radiographs"] = job.radiographs.model_dump(mode="json")
    write_json(job.out / "simulation.json", about)


def study_id(index: int) -> str:
    """``sim-00012`` for 12."""
    return f"sim-{index:05d}"


def _key(
    seed: int, settings: SimulationSettings, template: tuple[Path, Path] | None, radiographs: CxrSettings | None
) -> str:
    sums = [file_checksum(path) for path in template] if template else None
    parts: list[Any] = [VERSION, seed, settings.model_dump(mode="json"), sums]
    return value_hash(parts if radiographs is None else [*parts, radiographs.model_dump(mode="json")])


def _record_path(out: Path, index: int) -> Path:
    return out / "records" / f"{study_id(index)}.json"


def _files(job: _CohortJob, index: int) -> tuple[Path, Path]:
    name = study_id(index)
    if job.radiographs is None:
        return job.out / "images" / f"{name}.nii.gz", job.out / "masks" / f"{name}.nii.gz"
    return job.out / "images" / f"{name}.png", job.out / "regions" / f"{name}.csv"


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

    def body(index: int) -> tuple[int, bool]:
        return (0, False) if job.template else body_of(job.seed, index, job.settings)

    ordered = sorted(missing, key=lambda index: (body(index), index))
    workers = min(workers, len(ordered))
    if workers < 2:
        for index in ordered:
            yield _simulate_to_disk(job, [index])
        return
    with ExitStack() as stack:
        waiting = []
        for share in np.array_split(np.array(ordered), workers):
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), count_on_one_thread)
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
    if job.template is None:
        return None
    return _template(job.template) if job.radiographs is None else _chest(job.template)


def _simulate_to_disk(job: _CohortJob, indices: Sequence[int]) -> int:
    anatomy = _anatomy(job)
    for index in indices:
        image, masks = _files(job, index)
        if job.radiographs is not None:
            radiograph = simulate_radiograph(job.seed, index, job.settings, job.radiographs, anatomy)
            _write_radiograph(image, masks, radiograph)
            write_json(_record_path(job.out, index), _cxr_record(radiograph, index, job.key))
            continue
        study = simulate_study(job.seed, index, job.settings, anatomy)
        _write_nifti(image, study.scan.hu, study.scan.affine)
        _write_nifti(masks, study.labels.labels, study.labels.affine)
        write_json(_record_path(job.out, index), _record(study, index, job.key))
    return len(indices)


def _record(study: SimulatedStudy, index: int, key: str) -> dict[str, Any]:
    name = study_id(index)
    return {
        "hash": key,
        "row": {
            "study_id": name,
            "patient_id": f"patient-{study.patient:05d}",
            "image": f"images/{name}.nii.gz",
            "masks": f"masks/{name}.nii.gz",
            "report": study.report,
            "age": study.age,
            "sex": study.sex,
            "scanner": study.scanner,
        },
        "truth": study.truth,
        "lesions": [asdict(lesion) for lesion in study.lesions],
    }


def _cxr_record(radiograph: SimulatedCxr, index: int, key: str) -> dict[str, Any]:
    name, study = study_id(index), radiograph.study
    return {
        "hash": key,
        "row": {
            "study_id": name,
            "patient_id": f"patient-{study.patient:05d}",
            "image": f"images/{name}.png",
            "regions": f"regions/{name}.csv",
            "modality": "cxr",
            "view": radiograph.view,
            "findings": radiograph.report.findings,
            "impression": radiograph.report.impression,
            "age": study.age,
            "sex": study.sex,
            "scanner": study.scanner,
        },
        "truth": radiograph.truth,
        "lesions": [asdict(lesion) for lesion in radiograph.lesions],
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


def _write_tables(out: Path, records: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Cohort, truth and lesions as CSV, from the studies' records."""
    ids = [record["row"]["study_id"] for record in records]
    _write_csv(out / "cohort.csv", pl.DataFrame([record["row"] for record in records], infer_schema_length=None))
    pairs = [kind.pair for kind in KINDS if any(kind.pair in record["truth"] for record in records)]
    truth = {pair: [record["truth"].get(pair) for record in records] for pair in sorted(pairs)}
    _write_csv(out / "truth.csv", pl.DataFrame({"study_id": ids, **truth}))
    rows = [(name, *_lesion(m)) for name, record in zip(ids, records, strict=True) for m in record["lesions"]]
    _write_csv(out / "lesions.csv", pl.DataFrame(rows, schema=list(columns), orient="row"))


def _lesion(made: dict[str, Any]) -> tuple[Any, ...]:
    if "centre_mm" in made:
        return made["organ"], made["abnormality"], *made["centre_mm"], round(made["radius_mm"], 1)
    return made["organ"], made["abnormality"], made["row"], made["column"], made["radius"]


def _write_csv(path: Path, table: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.write_csv(temporary)
