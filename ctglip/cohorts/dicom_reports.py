"""Reports by accession number: read, joined to studies, counted on both sides. Accession numbers go no further."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from ctglip.cohorts.dicom_tree import TreeStudy
from ctglip.errors import CohortError
from ctglip.table_files import read_table

ReportColumn = Literal["accession", "report", "findings", "impression"]
_USUAL: Mapping[ReportColumn, tuple[str, ...]] = {
    "accession": ("accession", "accessionnumber", "accessionno", "accessionnr", "accno", "accn", "accessionid"),
    "report": ("report", "reporttext", "text", "narrative", "radiologyreport"),
    "findings": ("findings", "finding"),
    "impression": ("impression", "impressions", "conclusion"),
}


class ReportsByAccession:
    """The reports of a table.

    Args:
        texts: by accession number, by column of ours; several rows are put one after the other.
        rows, blank: how many rows there are, and how many without accession number or text.
        joined: accession numbers with several texts.
    """

    def __init__(self, texts: dict[str, dict[str, str]], blank: int = 0, joined: int = 0) -> None:
        self.texts, self.blank, self.joined = texts, blank, joined
        self._matched: set[str] = set()
        self._shared: set[str] = set()
        self._without = self._several = 0

    def match(self, studies: Iterable[TreeStudy]) -> None:
        """Find the reports of studies; one of an accession number that several patients have is nobody's."""
        patients: defaultdict[str, set[str]] = defaultdict(set)
        counts: defaultdict[str, int] = defaultdict(int)
        every = list(studies)
        for study in every:
            for number in study.accessions:
                patients[number].add(study.patient or study.uid)
                counts[number] += 1
        self._shared = {number for number, names in patients.items() if len(names) > 1 and number in self.texts}
        self._matched = {number for number in counts if number in self.texts} - self._shared
        self._several = sum(counts[number] > 1 for number in self._matched)
        self._without = sum(not self._matched & study.accessions for study in every)

    def of(self, study: TreeStudy) -> dict[str, str]:
        """The texts of a study by column of ours."""
        return _together(self.texts[number] for number in sorted(study.accessions & self._matched))

    def facts(self) -> list[str]:
        """What was joined, in sentences of counts."""
        if not self.texts and not self.blank:
            return []
        left = len(self.texts) - len(self._matched)
        found = [
            f"Reports by accession number: {len(self._matched)} of {len(self.texts)} have a study, {left} have none; "
            f"{self._without} studies have no report."
        ]
        if self._shared:
            found.append(f"{len(self._shared)} accession numbers are of several patients: their reports are nobody's.")
        if self._several:
            found.append(f"{self._several} reports belong to several studies and stand at each.")
        if self.joined:
            found.append(f"{self.joined} accession numbers have several texts, put one after the other.")
        if self.blank:
            found.append(f"{self.blank} rows of the reports have no accession number or no text.")
        return found


def read_reports(path: Path | None, columns: Mapping[ReportColumn, str]) -> ReportsByAccession:
    """The reports of a table; none without a table.

    Args:
        path: CSV, Excel or parquet.
        columns: ours -> theirs, where theirs is not one of the usual names.

    Raises:
        CohortError: ``no_table``, ``bad_table``, ``missing_column``.
    """
    if path is None:
        return ReportsByAccession({})
    try:
        table = read_table(path)
    except CohortError as error:
        if error.code != "repeated_column":
            raise
        raise CohortError(
            f"{path} has headings that stand in several columns, or none.", code=error.code, fix="Give it headings."
        ) from None
    plain = {"".join(filter(str.isalnum, name)).lower(): name for name in table.columns}
    names: dict[ReportColumn, str] = {}
    for ours, usual in _USUAL.items():
        theirs = columns.get(ours) or next((plain[name] for name in usual if name in plain), None)
        if theirs is not None and theirs in table.columns:
            names[ours] = theirs
        elif ours in columns or ours == "accession":
            raise _missing(path, columns.get(ours, ours), table.columns)
    if "findings" in names or "impression" in names:
        names.pop("report", None)
    if len(names) < 2:
        raise _missing(path, "report", table.columns)
    found: dict[str, list[dict[str, str]]] = {}
    blank = 0
    for row in table.iter_rows(named=True):
        number = row[names["accession"]]
        texts = {ours: row[theirs] for ours, theirs in names.items() if ours != "accession" and row[theirs]}
        if not number or not texts:
            blank += 1
        elif texts not in found.setdefault(number, []):
            found[number].append(texts)
    joined = sum(len(texts) > 1 for texts in found.values())
    return ReportsByAccession({number: _together(texts) for number, texts in found.items()}, blank, joined)


def _together(texts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for one in texts:
        for name, text in one.items():
            if text not in found[name]:
                found[name].append(text)
    return {name: "\n\n".join(parts) for name, parts in found.items()}


def _missing(path: Path, name: str, columns: list[str]) -> CohortError:
    """The headings are not shown: of a table without them they are somebody's."""
    return CohortError(
        f"{path} has no column {name!r} or any like it among its {len(columns)} columns.",
        code="missing_column",
        fix="Name it: --set columns.accession=THEIRS, columns.report, columns.findings or columns.impression.",
    )
