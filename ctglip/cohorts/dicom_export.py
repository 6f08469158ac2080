"""A folder of mixed DICOM files, as a PACS exports them, and a table of reports by accession number.

No name, id, date, accession number, UID or file name of the export comes into a table, a fact or an error: studies,
series and files are named by keyed hashes. What names the originals (the key, and links to the files of each series
that was taken) lies outside the output folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.dicom_reports import ReportColumn, ReportsByAccession, read_reports
from ctglip.cohorts.dicom_series import CtSeries, SeriesRule, ct_series
from ctglip.cohorts.dicom_tree import SECONDARY, Tree, TreeStudy, read_tree
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.private_ids import PrivateIds, load_key
from ctglip.errors import CohortError
from ctglip.files import atomic_path

_UNUSABLE = {
    "not_dicom": "The file is no DICOM.",
    "damaged": "Its header is damaged or cut off.",
}


class DicomSettings(CohortSettings, SeriesRule):
    """What can be chosen of a DICOM export.

    Attributes:
        reports: a table of reports by accession number; with it, studies without a report are left out.
        key: file of the key that ids are hashed with, outside the output folder; ``OUT.private/key`` when None.
        columns: of the reports: ``accession``, ``report``, ``findings``, ``impression`` -> their name, where it is not
            one of the usual.
        reconstructions: ``one`` a study, or ``all`` that are fit: each is a study then.
    """

    reports: Path | None = Field(default=None, exclude=True)
    key: Path | None = Field(default=None, exclude=True)
    columns: dict[ReportColumn, str] = Field(default_factory=dict)
    reconstructions: Literal["one", "all"] = "one"


class DicomExport(CohortReader):
    """Reads a DICOM export."""

    name = "dicom"
    leaves = ".*"
    private_names: ClassVar[bool] = True
    Settings = DicomSettings

    def for_output(self, settings: DicomSettings, root: Path, out: Path) -> DicomSettings:
        """The settings with the key's place, which is neither in the output nor among the originals.

        Raises:
            CohortError: ``key_place``.
        """
        out = out.resolve()
        key = (settings.key or out.with_name(f"{out.name}.private") / "key").resolve()
        for folder, what in ((out, "folder to write"), (root.resolve(), "folder of the DICOM files")):
            if key.is_relative_to(folder):
                raise CohortError(
                    f"The key of the ids would lie inside the {what}.",
                    code="key_place",
                    fix="Give --key a file outside of it, which stays with you.",
                )
        return settings.model_copy(update={"key": key})

    def read(self, disk: Disk, settings: DicomSettings) -> CohortTables:
        """The export in our form: a row a study that has a CT volume.

        Raises:
            CohortError: ``no_images``, ``no_key``, ``bad_key``, ``no_links``; of the reports ``no_table``,
                ``bad_table``, ``missing_column``.
        """
        disk.unfinished.clear()  # their names may be private; a file that is cut off is found by its size
        if settings.key is None:
            raise CohortError("No key is named that ids are hashed with.", code="no_key", fix="Set key.")
        tree = read_tree(disk.root)
        if not tree.studies:
            raise CohortError(
                f"{disk.root} has no DICOM study among {tree.files} files.",
                code="no_images",
                fix="Give the folder of the export.",
            )
        reports = read_reports(settings.reports, settings.columns)
        return _ExportReading(tree, settings, PrivateIds(load_key(settings.key)), reports).run(settings.key, disk.root)


class _ExportReading:
    """One reading of one export."""

    def __init__(self, tree: Tree, settings: DicomSettings, ids: PrivateIds, reports: ReportsByAccession) -> None:
        self.tree, self.settings, self.ids, self.reports = tree, settings, ids, reports
        self.tables = CohortTables()
        self.masked = 0

    def run(self, key: Path, root: Path) -> CohortTables:
        """The cohort of all studies; links to the files of each series are made beside the key."""
        links = key.with_name(f"{key.name}.series")
        for path, reason in self.tree.unusable.items():
            name = self.ids.make("file", path.relative_to(root).as_posix())
            self.tables.exclude(f"file-{name}", reason, _UNUSABLE[reason])
        self.reports.match(self.tree.studies.values())
        for study in self.tree.studies.values():
            self._take(study, links, root)
        self.tables.rows.sort(key=lambda row: str(row["study_id"]))
        self.tables.excluded.sort(key=lambda one: one.item)
        self._facts()
        return self.tables

    def _take(self, study: TreeStudy, links: Path, root: Path) -> None:
        study_id = self.ids.make("study", study.patient, study.uid)
        patient = ("patient", study.patient) if study.patient else ("patient of study", study.uid)
        fit: list[CtSeries] = []
        for uid, files in study.series.items():
            name = self.ids.make("series", study.patient, study.uid, uid)
            item = f"{study_id}/{name}"
            for kind, count in files.others.items():
                reason = "secondary_capture" if kind == SECONDARY else "not_ct"
                self.tables.exclude(item, reason, f"{count} files: {kind}.")
            if count := len(files.truncated):
                self.tables.exclude(item, "truncated", f"{count} of its images are cut off and were left out.")
            if files.images:
                found = ct_series(name, files.images, self.settings)
                if isinstance(found, CtSeries):
                    fit.append(found)
                else:
                    self.tables.exclude(item, *found)
        fit.sort(key=lambda one: one.order(self.settings.choose, self.settings.phases))
        texts = self._texts(study)
        if fit and self.settings.reports is not None and not texts:
            self.tables.exclude(study_id, "no_report", "No report has its accession number, or it has none.")
            return
        alone = self.settings.reconstructions == "one"
        for one in fit[:1] if alone else fit:
            folder = links / self.ids.make("links", str(root.resolve()), study_id, one.name)
            _link(folder, one.files)
            self.tables.rows.append({
                "study_id": study_id if alone else f"{study_id}_{one.name}", "patient_id": self.ids.make(*patient),
                "image": str(folder), "modality": "ct", "phase": one.phase, **texts,
            })  # fmt: skip
        for other in fit[1:] if alone else ():
            rules = (*(("phases",) if self.settings.phases else ()), *self.settings.choose)
            detail = f"{other.text}; {fit[0].text} was chosen by {', '.join(rules)}."
            self.tables.exclude(f"{study_id}/{other.name}", "other_series", detail)

    def _texts(self, study: TreeStudy) -> dict[str, str | None]:
        masker = study.masker()
        texts: dict[str, str | None] = {}
        for name, text in self.reports.of(study).items():
            texts[name], count = masker(text)
            self.masked += count
        return texts

    def _facts(self) -> None:
        facts = self.tables.facts
        series = sum(len(study.series) for study in self.tree.studies.values())
        facts.append(f"{self.tree.files} files: {series} series of {len(self.tree.studies)} studies.")
        without = len(self.tree.studies) - len({str(row["study_id"])[:16] for row in self.tables.rows})
        if without:
            facts.append(f"{without} studies are not in the table: no fit CT volume, or no report.")
        if self.tree.without_patient:
            facts.append(f"{self.tree.without_patient} studies name no patient: each is a patient of its own.")
        if count := len(self.tree.without_uid):
            facts.append(f"{count} studies have no UID: accession number, series or else folder stands for it.")
        facts += self.reports.facts()
        if self.masked:
            facts.append(f"{self.masked} names, ids and dates of headers stood in reports and were masked.")
        facts.append("Ids are hashes by the key; the key and links to the originals lie beside it, outside the tables.")


def _link(folder: Path, files: list[Path]) -> None:
    """A folder of links to the files of one series, numbered: nobody else may look into it."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_path(folder) as temporary:
            temporary.mkdir(mode=0o700)
            for number, file in enumerate(files, start=1):
                (temporary / f"{number:06d}.dcm").symlink_to(file.resolve())
    except OSError as error:  # its words name the original
        raise CohortError(
            f"Links to a series cannot be made in {folder.parent}: {error.strerror}.",
            code="no_links",
            fix="Give --key a file on a disk that is writable and knows links.",
        ) from None
