"""One study on its way: what is known of it, and the stages that it goes through, each a function ``Case -> Case``.

Nothing here knows Ray, and nothing reads the journal: the case says what the store holds of the study.
"""

from __future__ import annotations

import functools
import hashlib
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctglip.cohort import CohortRow
from ctglip.ct import quality
from ctglip.ct.detached import detached_files
from ctglip.ct.masks_nnunet import dataset_file
from ctglip.ct.segmentation import SegmentationSettings, Segmenter
from ctglip.errors import CTGLIPError, MaskError, OutputError, ReportError, ScanError
from ctglip.files import encodable, file_checksum, files_below, value_hash, writing
from ctglip.modality import MODALITIES, GivenOrgans, Modality, OrganLocations, modality_of
from ctglip.reports.cohort_reports import report_of
from ctglip.reports.parser import get_parser
from ctglip.store.journal import JournalEntry
from ctglip.store.study import SourceGrid, StudyRecord, write_study
from ctglip.types import Failure, Finding, QualityCheck, Report, Standardized
from ctglip.vocabulary.organs import load_organs
from ctglip_preprocessing.lesion_masks import PlacedLesions, place_lesions
from ctglip_preprocessing.lesions import GivenLesion
from ctglip_preprocessing.limits import TimeUp, limits
from ctglip_preprocessing.organ_text import GivenText, given_findings
from ctglip_preprocessing.settings import PreprocessConfig

_FILES: dict[str, type[CTGLIPError]] = {
    "image": ScanError,
    "masks": MaskError,
    "mask_names": MaskError,
    "regions": MaskError,
    "report_path": ReportError,
}
"""The files that a study may be made from, and the error of one that cannot be read."""


@dataclass(frozen=True)
class Plan:
    """What all cases of a run have in common; small, since it travels to every worker.

    Attributes:
        store: the store's folder.
        recipe_hash: the store's, see ``ctglip.store.format.build_hash``.
        requires_report: the cohort has reports, so a study without one is a failure.
    """

    store: Path
    config: PreprocessConfig
    recipe_hash: str
    requires_report: bool

    @property
    def modality(self) -> Modality[Any, Any]:
        """The kind of images that the recipe is for."""
        return modality_of(self.config.recipe)


@dataclass(frozen=True)
class Case:
    """One study: what the driver knows of it, and what the stages have found so far.

    Attributes:
        given: the sentences and findings of the cohort's organ text; lesions_given: its drawn findings.
        fingerprint: what its input looked like from outside when it was planned.
        stored: checksum of the input that the store's study was made from; empty where the store has none.
        checksum: hash of the input, once it was read.
        checks: what was noticed about the image, then about its organs; ``passed``: those that did not stop it.
        seconds: time spent, by stage.
    """

    row: CohortRow
    plan: Plan
    given: tuple[GivenText, ...] = ()
    lesions_given: tuple[GivenLesion, ...] = ()
    fingerprint: str = ""
    stored: str = ""
    checksum: str = ""
    report: Report | None = None
    findings: tuple[Finding, ...] = ()
    image: Any = None
    checks: tuple[QualityCheck, ...] = ()
    passed: tuple[QualityCheck, ...] = ()
    locations: OrganLocations = field(default_factory=OrganLocations)
    standardized: Standardized | None = None
    lesions: PlacedLesions = field(default_factory=PlacedLesions)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def is_stored(self) -> bool:
        """The store holds this study as it would be written now."""
        return self.checksum != "" and self.checksum == self.stored

    def done(self) -> JournalEntry:
        """The case as a line of the journal, done."""
        return JournalEntry(
            self.row.study_id, self.plan.recipe_hash, self.fingerprint, self.checksum, seconds=self.seconds
        )

    def failed(self, stage: str, code: str, message: str, **details: Any) -> JournalEntry:
        """The case as a line of the journal, failed.

        What the store holds of the study stays only while its input could not even be read: a drive that is away must
        not empty the store, but input that changed must not be served as it was.
        """
        failure = Failure(self.row.study_id, stage, code, encodable(message), details)
        stored_checksum = "" if self.checksum else self.stored
        return JournalEntry(
            self.row.study_id, self.plan.recipe_hash, self.fingerprint, stored_checksum, failure, self.seconds
        )


CaseStage = Callable[[Case], Case]


def run_case(case: Case, hard_limits: bool = False) -> JournalEntry:
    """Take one study from its files into the store. Never raises for what a study can be guilty of.

    Args:
        hard_limits: end this whole process when even an interrupt does not stop an overdue study; for workers.

    Raises:
        OutputError: the store cannot be written.
    """
    config = case.plan.config
    name = STAGES[0][0]
    try:
        with limits(config.study_timeout_s, config.study_memory_gb, hard_limits):
            for name, stage in STAGES:
                start = time.perf_counter()
                try:
                    case = stage(case)
                finally:
                    case.seconds[name] = case.seconds.get(name, 0.0) + time.perf_counter() - start
                if case.is_stored:
                    break
        return case.done()
    except OutputError:
        raise
    except CTGLIPError as error:
        remarks = [f"Noticed before: {check.message}" for check in case.passed if check.severity != "error"]
        return case.failed(name, error.code, " ".join((str(error), *remarks)))
    except TimeUp:
        return case.failed(name, "timeout", f"It took longer than {config.study_timeout_s:g} s (study_timeout_s).")
    except MemoryError:
        return case.failed(
            name, "out_of_memory", f"It needs more than {config.study_memory_gb:g} GB (study_memory_gb)."
        )
    except Exception as error:  # noqa: BLE001  (a batch job never dies of one bad case)
        return case.failed(name, "unexpected", f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


# -- the stages, in their order (listed at the end)


def hash_input(case: Case) -> Case:
    """Hash the content of all files and cells that the study is made from; paths do not count.

    Raises:
        ScanError, MaskError, ReportError: ``no_file`` for a missing file, ``unreadable`` for one that cannot be read.
    """
    content: dict[str, Any] = {"cells": _cells(case.row)}
    if case.given:
        content["organ_text"] = [astuple(text) for text in case.given]
    try:
        if case.lesions_given:
            files = [file_checksum(path) for path in _lesion_files(case.lesions_given) if path.is_file()]
            content["localization"] = [_plain(case.lesions_given), files]
        files_of_row = _files(case.row)
    except (OSError, ValueError) as error:
        raise ScanError(f"Study {case.row.study_id}: its files cannot be read: {error}.", code="unreadable") from error
    for name, path in files_of_row:
        content |= _content_of(case.row, name, path)
    return replace(case, checksum=value_hash(content, 64))


def _content_of(row: CohortRow, name: str, path: Path) -> dict[str, Any]:
    """The checksums of one of a row's files, and of those that it names as its voxels."""
    kind = _FILES[name]
    try:
        if not path.exists():
            raise kind(
                f"Study {row.study_id}: there is no {name} at {path}.",
                code="no_file" if name == "image" else f"no_{name.removesuffix('_path')}",
                fix="Check the path; it is relative to the cohort table.",
            )
        if not (path.is_file() or path.is_dir()):
            raise kind(f"Study {row.study_id}: {path} is no file and no folder.", code="unreadable", fix="Name a file.")
        found: dict[str, Any] = {name: file_checksum(path)}
        if detached := detached_files(path):
            found[f"{name}_data"] = [file_checksum(file) for file in detached]
    except (OSError, ValueError) as error:
        if isinstance(error, CTGLIPError):
            raise
        raise kind(f"Study {row.study_id}: {path} cannot be read: {error}.", code="unreadable") from error
    return found


def read_report(case: Case) -> Case:
    """Read the study's report and what it says of each organ, and add what was given of them; nothing where none is
    there and none is wanted.

    Raises:
        ReportError: ``report_empty`` or ``unreadable``, see ``ctglip.reports.cohort_reports.report_of``.
    """
    report = report_of(case.row, case.plan.requires_report and not case.given)
    parsed = () if report is None else get_parser().parse(report)
    return replace(case, report=report, findings=(*parsed, *given_findings(case.given, parsed)))


def read_image(case: Case) -> Case:
    """Read the study's image.

    Raises:
        ScanError: from the reader of the recipe's modality; ``not_ct`` or ``not_a_radiograph`` for another modality.
    """
    row, modality = case.row, case.plan.modality
    if "modality" in row.model_fields_set and row.modality != modality.name:
        raise ScanError(
            f"Study {row.study_id} has modality {row.modality!r}, this recipe is for {modality.images}.",
            code=modality.other_code,
            fix=f"Preprocess {MODALITIES[row.modality].images} with a recipe for them.",
        )
    image, noticed = modality.read(row.image, case.plan.config.recipe, row.scan_header())
    return replace(case, image=image, checks=noticed)


def refuse_errors(case: Case) -> Case:
    """Let a study pass whose image and masks are what they claim to be.

    Raises:
        ScanError: with the code of the first check of severity ``error``, unless the settings keep such studies.
    """
    if case.plan.config.error_checks != "keep":
        fix = "Look at the source; to keep such studies set error_checks: keep and run again with --retry-failed."
        quality.refuse_errors(case.checks, fix)
    return replace(case, passed=case.checks)


def locate_organs(case: Case) -> Case:
    """Find the organs of the study's image: its masks and boxes, masks made here, or nothing.

    Raises:
        MaskError: masks or boxes that cannot be laid on the image, or a segmentation that failed.
    """
    row, recipe, organs = case.row, case.plan.config.recipe, load_organs()
    settings = segmentation_of(case)
    segmenter = None if settings is None else _open_segmenter(settings).run
    given = GivenOrgans(row.masks, row.regions, row.numbering, segmenter)
    locations = case.plan.modality.locate(case.image, recipe, organs, given)
    return replace(case, locations=locations, checks=(*case.checks, *locations.checks))


def standardize(case: Case) -> Case:
    """Put image, organs and drawn findings on the recipe's grid."""
    modality = case.plan.modality
    view, doubts = modality.view(case.image, case.row.view)
    made = modality.standardize(case.image, case.locations, case.plan.config.recipe, load_organs())
    row = case.row.model_copy(update={"modality": modality.name, "view": view})
    lesions = PlacedLesions()
    if case.lesions_given:
        header = case.row.scan_header()
        stated = None if header is None else header.affine
        lesions = place_lesions(case.lesions_given, case.row.image, stated, case.image.grid, made)
    checks = (*case.checks, *doubts, *made.checks, *lesions.checks)
    return replace(case, row=row, standardized=made, lesions=lesions, checks=checks)


def write(case: Case) -> Case:
    """Write the study into the store with its table rows inside, whole or not at all."""
    row, standardized = case.row, case.standardized
    assert standardized is not None
    record = StudyRecord(
        study_id=row.study_id,
        patient_id=row.patient_id,
        standardized=replace(standardized, checks=case.checks),
        source_checksum=case.checksum,
        recipe_hash=case.plan.recipe_hash,
        report=case.report,
        findings=case.findings,
        row=row.model_dump(include={"modality", "view", "age", "sex", "scanner"}),
        source=SourceGrid(*case.image.grid),
        image_checksum=_image_checksum(case.plan.modality.compared(case.image, standardized)),
        lesions=case.lesions.lesions,
        lesion_layers=case.lesions.layers,
    )
    with writing(case.plan.store):
        write_study(case.plan.store, record)
    return case


STAGES: tuple[tuple[str, CaseStage], ...] = (
    ("ingest", hash_input),
    ("report", read_report),
    ("ingest", read_image),
    ("check", refuse_errors),
    ("segment", locate_organs),
    ("standardize", standardize),
    ("check", refuse_errors),
    ("write", write),
)
"""All that happens to a study, each under the name that the journal has for it. A study that the store holds as it
would be written goes no further than the first."""


# -- what the stages and the driver need


def fingerprint(row: CohortRow, given: Sequence[GivenText] = (), lesions: Sequence[GivenLesion] = ()) -> str:
    """What the input looks like without reading it: cells, organ text, drawn findings, and path, size and time of every
    file.

    While it stays the same the content is taken to be the same.
    """
    try:
        named = _files(row)
        files = [[name, *map(_size_and_time, (*files_below(path), *detached_files(path)))] for name, path in named]
    except (OSError, ValueError) as error:  # names that no file can have, folders that may not be read
        files = [[type(error).__name__, str(error)]]
    masks = [[_plain(lesions), [_size_and_time(path) for path in _lesion_files(lesions)]]] if lesions else []
    return value_hash([_cells(row), *files, *map(astuple, given), *masks], 32)


def _files(row: CohortRow) -> list[tuple[str, Path]]:
    names = None if row.masks is None else dataset_file(row.masks)
    named = [(name, path) for name in _FILES if (path := getattr(row, name, None)) is not None]
    return named if names is None else [*named, ("mask_names", names)]


def _lesion_files(lesions: Sequence[GivenLesion]) -> list[Path]:
    """The files that findings are drawn in."""
    return sorted({lesion.mask for lesion in lesions if lesion.mask is not None})


def _plain(lesions: Sequence[GivenLesion]) -> list[list[Any]]:
    """Drawn findings without the paths of their files."""
    return [[*astuple(replace(lesion, mask=None)), lesion.mask is not None] for lesion in lesions]


def _cells(row: CohortRow) -> dict[str, Any]:
    """The row's cells that end up in the study. The split is not among them: it is kept by patient, apart."""
    return row.model_dump(
        mode="json", exclude={*_FILES, "organ_text", "localization", "split", "study_id"}, exclude_none=True
    )


def _size_and_time(file: Path) -> list[Any]:
    try:
        stat = file.stat()
    except (OSError, ValueError) as error:
        return [str(file), type(error).__name__]
    return [str(file), stat.st_size, stat.st_mtime_ns]


def _image_checksum(image: np.ndarray) -> str:
    """Hash of an image as it was read, whatever file it came in; of every third voxel along each axis, which is enough
    to tell images apart."""
    few = image[tuple(slice(None, None, 3) for _ in image.shape)]
    return value_hash([list(image.shape), hashlib.sha256(np.ascontiguousarray(few).tobytes()).hexdigest()], 32)


def segmentation_of(case: Case) -> SegmentationSettings | None:
    """How TotalSegmentator has to be run for this study; None where it has not."""
    return None if case.row.masks is not None else case.plan.modality.segmentation(case.plan.config.recipe)


def _open_segmenter(settings: SegmentationSettings) -> Segmenter:
    """This process's TotalSegmentator: its model is loaded with the first study and stays for those that follow."""
    opened = _opened_segmenters()
    if settings not in opened:
        close_segmenters()
        opened[settings] = Segmenter(settings, load_organs())
    return opened[settings]


def close_segmenters() -> None:
    """End this process's TotalSegmentator, if one was started; else it ends with this process."""
    opened = _opened_segmenters()
    while opened:
        opened.popitem()[1].close()


@functools.cache
def _opened_segmenters() -> dict[SegmentationSettings, Segmenter]:
    return {}
