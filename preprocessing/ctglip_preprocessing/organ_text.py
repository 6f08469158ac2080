"""What others say of each organ, as it comes in beside the parser's findings.

A table has a row for each sentence (or finding) and organ: ``study_id``, ``organ``, ``sentence``, and as far as they
are known ``theirs`` (what its maker calls the place), ``abnormality``, ``status``, ``source`` and the other columns of
``findings.parquet``. Such are ``organ_text.csv`` of ``ctglip cohort`` and what ``ctglip parse COHORT --out`` writes.
A JSON file has the text of each study's organs, as fVLM's ``desc_info.json``: ``{"train_1_a": {"lung": "A nodule."}}``.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import polars as pl

from ctglip.cohort import Cohort
from ctglip.cohorts.organ_names import organ_of
from ctglip.errors import CohortError, CTGLIPError
from ctglip.files import read_json
from ctglip.reports.parser import get_parser
from ctglip.reports.sentences import split_sentences
from ctglip.table_files import read_table, require_columns
from ctglip.types import PARSER, Finding, Laterality, Section, Status
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.evidence import organs_named, related_organs
from ctglip.vocabulary.organs import load_organs

REQUIRED = ("study_id", "organ", "sentence")
OPTIONAL = (
    "theirs", "abnormality", "status", "source", "sentence_index", "section", "laterality", "level", "reason",
)  # fmt: skip
GIVEN = "given"
"""The source of rows that name none, or the parser: read again from a table they are no longer our own reading."""
_CHOICES: dict[str, tuple[str, ...]] = {
    "status": get_args(Status),
    "laterality": get_args(Laterality),
    "section": get_args(Section),
}
_LISTED = 50


@dataclass(frozen=True)
class GivenText:
    """One row of an organ text, its names those of the dictionaries; what it leaves open is None.

    Attributes:
        is_finding: the row says all that a finding says, and is not read.
    """

    sentence: str
    organ: str | None
    abnormality: str | None
    status: Status | None
    laterality: Laterality | None
    level: str | None
    reason: str | None
    source: str
    sentence_index: int | None
    section: str | None
    is_finding: bool


@dataclass(frozen=True)
class CohortOrganText:
    """The organ text of a cohort: by study, and what the reader of the run must know, one sentence each."""

    texts: dict[str, tuple[GivenText, ...]]
    notes: tuple[str, ...] = ()


def with_organ_text(cohort: Cohort, path: Path) -> Cohort:
    """The cohort, with an organ text for the rows that name none."""
    return replace(cohort, rows=cohort.rows.with_organ_text(path.resolve()))


def read_organ_text(cohort: Cohort) -> CohortOrganText:
    """The organ texts that the rows of a cohort name.

    Raises:
        CohortError: ``no_table``, ``bad_table`` (see ``table_files.read_table``); ``missing_column``; ``empty_table``;
            ``bad_cell``: a row without study or sentence, or with a word that its column does not know.
    """
    texts: dict[str, tuple[GivenText, ...]] = {}
    notes: list[str] = []
    for path, study_ids in cohort.tables_in("organ_text").items():
        found = _Table(path)
        texts |= {name: tuple(dict.fromkeys(rows)) for name, rows in found.texts.items() if name in study_ids}
        notes += found.notes(study_ids | {failure.study_id for failure in cohort.bad})
    return CohortOrganText(texts, tuple(notes))


class _Table:
    """One table as it is read: its rows by study, and the names that mean nothing here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: defaultdict[str, list[GivenText]] = defaultdict(list)
        self.organs: Counter[str] = Counter()
        self.abnormalities: Counter[str] = Counter()
        table = _json_table(path) if path.suffix.lower() == ".json" else read_table(path)
        fix = "An organ text has a row for each sentence and organ: study_id, organ, sentence."
        require_columns(path, table, REQUIRED, fix)
        if table.is_empty():
            raise CohortError(f"{path} has headings and no row.", code="empty_table", fix="Give one row a sentence.")
        self.unread = [name for name in table.columns if name not in (*REQUIRED, *OPTIONAL)]
        for number, cells in enumerate(table.iter_rows(named=True), start=2):
            self._check(number, cells)
            self.texts[cells["study_id"]].append(self._text(cells))

    def _check(self, number: int, cells: dict[str, str | None]) -> None:
        for name in ("study_id", "sentence"):
            if not cells[name]:
                raise self._bad(number, f"no {name}", "Fill it in, or take the row out.")
        for name, choices in _CHOICES.items():
            value = cells.get(name)
            if value is not None and value not in choices:
                raise self._bad(number, f"{name} {value!r}", f"Write one of {', '.join(choices)}.")
        index = cells.get("sentence_index")
        if index is not None and not index.isdecimal():
            raise self._bad(number, f"sentence_index {index!r}", "Write a whole number, from 0.")

    def _bad(self, number: int, found: str, fix: str) -> CohortError:
        return CohortError(f"{self.path}: row {number} has {found}.", code="bad_cell", fix=fix)

    def _text(self, cells: dict[str, str | None]) -> GivenText:
        named, abnormality = cells["organ"], cells.get("abnormality")
        organ = _organ(named) if named else None
        if organ is None and (named or "sentence_index" not in cells):
            self.organs[named or cells.get("theirs") or "no place"] += 1
        known = load_abnormalities().find(abnormality) if abnormality else None
        if abnormality and known is None:
            self.abnormalities[abnormality] += 1
        index, source = cells.get("sentence_index"), cells.get("source")
        status = cast("Status | None", cells.get("status"))  # checked before
        return GivenText(
            sentence=cells["sentence"] or "",
            organ=organ,
            abnormality=known and known.name,
            status=status,
            laterality=cast("Laterality | None", cells.get("laterality")),
            level=cells.get("level"),
            reason=cells.get("reason") or (None if organ else "its place is no organ of the dictionary"),
            source=GIVEN if source in (None, PARSER) else source,
            sentence_index=None if index is None else int(index),
            section=cells.get("section"),
            is_finding=status is not None and (known is not None or status == "normal" or index is not None),
        )

    def notes(self, study_ids: set[str]) -> list[str]:
        """What was found, for the person who runs this."""
        found = [
            f"{self.path.name}: no {what} of ours: {listed(counts)}."
            for what, counts in (("organ", self.organs), ("abnormality", self.abnormalities))
            if counts
        ]
        found += rows_of_others(self.path, self.texts, study_ids)
        if self.unread:
            found.append(f"{self.path.name}: columns that are not read: {', '.join(self.unread)}.")
        return found


def _json_table(path: Path) -> pl.DataFrame:
    """A row for each organ of each study of a JSON file.

    Raises:
        CohortError: ``no_table``; ``bad_table``: not ``{study: {organ: text}}``, as HLIP's lists, which name no organ.
    """
    if not path.is_file():
        raise CohortError(f"There is no {path}.", code="no_table", fix="Check the path.")
    try:
        studies = read_json(path)
    except CTGLIPError as error:
        raise CohortError(str(error), code="bad_table", fix="Copy or download it again.") from error
    rows = [
        {"study_id": str(study), "organ": str(organ), "sentence": text}
        for study, organs in (studies.items() if isinstance(studies, dict) else ())
        for organ, text in (organs.items() if isinstance(organs, dict) else [("", None)])
    ]
    if wrong := next((row for row in rows if not isinstance(row["sentence"], str)), None):
        raise CohortError(
            f"{path}: study {wrong['study_id']!r} has no text by organ, expected {{study: {{organ: text}}}}.",
            code="bad_table",
            fix="Lists of texts name no organ: give them as the cohort's column report.",
        )
    return pl.DataFrame(rows, schema=dict.fromkeys(REQUIRED, pl.String))


def rows_of_others(path: Path, rows: Mapping[str, Sequence[object]], study_ids: Collection[str]) -> list[str]:
    """A sentence about the rows of a table (by study) whose studies are not among those of the cohort, if any."""
    other = {name: len(several) for name, several in rows.items() if name not in study_ids}
    if not other:
        return []
    return [
        f"{path.name}: {sum(other.values())} rows are of {len(other)} studies that the cohort table does not have, "
        f"first {min(other)}."
    ]


def listed(counts: Counter[str]) -> str:
    """The most common names with their counts, and how many more there are."""
    names = [f"{name} ({count})" for name, count in counts.most_common(_LISTED)]
    more = [f"{len(counts) - _LISTED} more"] if len(counts) > _LISTED else []
    return ", ".join([*names, *more])


@functools.lru_cache(maxsize=4096)
def _organ(text: str) -> str | None:
    return organ_of(text)


def given_findings(texts: Iterable[GivenText], parsed: Sequence[Finding]) -> tuple[Finding, ...]:
    """A study's organ text as findings, each sentence with the number that it has in the report.

    What names neither abnormality nor status is read by the parser, under the organ as a heading where it names none.
    A sentence in which it reads nothing of that organ affirms (or, where all of it is negated or normal, denies)
    something unnamed of it. An abnormality without a status that it does not read is uncertain.

    Args:
        parsed: the parser's findings of the study's report.
    """
    by_index = {row.sentence_index: (row.sentence_index, row.section, row.sentence) for row in parsed}
    by_sentence = {position[2]: position for position in reversed(by_index.values())}
    following = max(by_index, default=-1) + 1
    found: list[Finding] = []
    for text in (sentence for one in texts for sentence in _sentences(one)):
        position = by_index.get(-1 if text.sentence_index is None else text.sentence_index)
        if position is None or position[2] != text.sentence:
            position = by_sentence.get(text.sentence)
        if position is None:
            position = by_sentence[text.sentence] = (following, text.section or "findings", text.sentence)
            following += 1
        index, section, _ = position
        found += [replace(row, sentence_index=index, section=section) for row in _findings(text)]
    return tuple(dict.fromkeys(found))


def _sentences(text: GivenText) -> list[GivenText]:
    """A text that names neither abnormality nor status, sentence by sentence; else it as a whole."""
    if text.is_finding or text.abnormality or text.status:
        return [text]
    return [replace(text, sentence=sentence) for sentence in split_sentences(text.sentence)] or [text]


def _findings(text: GivenText) -> list[Finding]:
    """A text as findings; see ``given_findings``."""
    bare = Finding(
        0, "findings", text.sentence, text.organ, text.abnormality, text.status or "uncertain", text.laterality,
        text.level, text.reason, text.source,
    )  # fmt: skip
    if text.is_finding or text.organ is None:
        return [bare]
    rows = get_parser().parse(f"FINDINGS: {text.sentence}")
    if not any(row.organ for row in rows):
        rows = get_parser().parse(f"FINDINGS: {load_organs()[text.organ].display}: {text.sentence}")
    found = [
        row
        for row in _placed(rows, text, text.organ)
        if text.abnormality in (None, row.abnormality) and text.status in (None, row.status)
    ]
    if found or text.status or text.abnormality:
        return found or [bare]
    calm = all(row.status in ("negated", "normal") for row in rows)
    return [replace(bare, status="negated" if calm else "affirmed")]


def _placed(rows: Iterable[Finding], text: GivenText, organ: str) -> Iterator[Finding]:
    """What is read of the organ that a text was given for, and of its parts; what is read of what holds it, or of an
    organ that shares the abnormality, is said of the organ."""
    organs, abnormalities = load_organs(), load_abnormalities()
    inside = {organ, *organs.parts_of(organ)}
    for row in rows:
        if organ not in related_organs(row, organs, abnormalities):
            continue
        row = replace(row, sentence=text.sentence, source=text.source)
        if inside.isdisjoint(organs_named(row, organs)):
            row = replace(row, organ=organ, laterality=organs[organ].side)
        yield row
