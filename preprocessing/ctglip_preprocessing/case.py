"""One study on its way: a case in, a result out. Failures are values; nothing here knows Ray or the journal."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ctglip.cohort import CohortRow
from ctglip.errors import CTGLIPError, StoreError
from ctglip.modality import modality_of
from ctglip.store.format import study_path
from ctglip.store.study import SourceGrid, StudyReader
from ctglip.types import Failure, QualityCheck
from ctglip.vocabulary.organs import load_organs
from ctglip_preprocessing.limits import TimeUp, limits
from ctglip_preprocessing.settings import PreprocessConfig
from ctglip_preprocessing.stages.check import refuse_errors
from ctglip_preprocessing.stages.ingest import image_checksum, ingest, input_checksum
from ctglip_preprocessing.stages.report import read_report
from ctglip_preprocessing.stages.segment import locate_organs
from ctglip_preprocessing.stages.write import write


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


@dataclass(frozen=True)
class Case:
    """One study to work on. ``fingerprint`` is what its input looked like from outside when it was planned."""

    row: CohortRow
    fingerprint: str


@dataclass(frozen=True)
class CaseResult:
    """What became of a case.

    Attributes:
        status: ``done``: written now; ``unchanged``: the store holds just this already; ``failed``: see ``failure``.
        checksum: hash of the input, empty when it could not be read.
        seconds: time spent, by stage.
    """

    study_id: str
    fingerprint: str
    status: Literal["done", "unchanged", "failed"]
    checksum: str = ""
    failure: Failure | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class _Progress:
    """Where a case is, and what is known of it so far; ``noticed`` are the checks of its scan."""

    stage: str = "ingest"
    checksum: str = ""
    noticed: tuple[QualityCheck, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def remarks(self) -> list[str]:
        """What was noticed of the scan before the case failed at something else."""
        return [f"Noticed before: {check.message}" for check in self.noticed if check.severity != "error"]

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        self.stage = stage
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def run_case(case: Case, plan: Plan, hard_limits: bool = False) -> CaseResult:
    """Take one study from its files into the store. Never raises for what a study can be guilty of.

    Args:
        hard_limits: end this whole process when even an interrupt does not stop an overdue study; for workers.
    """
    progress = _Progress()
    study_id = case.row.study_id

    def failed(code: str, message: str, **details: str) -> CaseResult:
        failure = Failure(study_id, progress.stage, code, message, dict(details))
        return CaseResult(study_id, case.fingerprint, "failed", progress.checksum, failure, progress.seconds)

    config = plan.config
    try:
        with limits(config.study_timeout_s, config.study_memory_gb, hard_limits):
            status = _work(case.row, plan, progress)
        return CaseResult(study_id, case.fingerprint, status, progress.checksum, None, progress.seconds)
    except CTGLIPError as error:
        return failed(error.code, " ".join((str(error), *progress.remarks())))
    except TimeUp:
        return failed("timeout", f"It took longer than {config.study_timeout_s:g} s (study_timeout_s).")
    except MemoryError:
        return failed("out_of_memory", f"It needs more than {config.study_memory_gb:g} GB (study_memory_gb).")
    except Exception as error:  # noqa: BLE001  (a batch job never dies of one bad case)
        return failed("unexpected", f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


def _work(row: CohortRow, plan: Plan, progress: _Progress) -> Literal["done", "unchanged"]:
    recipe, organs = plan.config.recipe, load_organs()
    modality = modality_of(recipe)
    with progress.at("ingest"):
        progress.checksum = input_checksum(row)
        if _stored(row.study_id, plan, progress.checksum):
            return "unchanged"
    with progress.at("report"):
        report, findings = read_report(row, plan.requires_report)
    with progress.at("ingest"):
        image, noticed = ingest(row, recipe)
        view, doubts = modality.view(image, row.view)
        row = row.model_copy(update={"modality": modality.name, "view": view})
    with progress.at("check"):
        refuse_errors(noticed, plan.config)
    progress.noticed = noticed
    with progress.at("segment"):
        locations = locate_organs(row, image, recipe, organs)
    with progress.at("standardize"):
        made = modality.standardize(image, locations, recipe, organs)
        standardized = replace(made, checks=(*noticed, *locations.checks, *doubts, *made.checks))
    with progress.at("check"):
        refuse_errors(standardized.checks, plan.config)
    with progress.at("write"):
        image_hash = image_checksum(modality.compared(image, standardized))
        source = SourceGrid(*image.grid)
        write(plan.store, row, standardized, source, report, findings, progress.checksum, plan.recipe_hash, image_hash)
    return "done"


def _stored(study_id: str, plan: Plan, checksum: str) -> bool:
    """Whether the store holds this study as it would be written now."""
    try:
        study = StudyReader(study_path(plan.store, study_id))
    except StoreError:
        return False
    known = (study.attributes.get("source_checksum"), study.attributes.get("recipe_hash"))
    return known == (checksum, plan.recipe_hash)
