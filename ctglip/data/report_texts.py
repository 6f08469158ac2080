"""Reports as numbers of texts: sections, sentences, the sentences of each region, tags.

A missing section is ``NO_TEXT`` among the numbers, never an empty or made-up text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8

from ctglip.cxr.sentence_regions import SECTIONS
from ctglip.data.samples import NO_TEXT
from ctglip.reports.tags import Tagger
from ctglip.store.tables import Store
from ctglip.types import Finding


@dataclass(frozen=True)
class ReportTextNumbers:
    """One report, by numbers in the list of texts.

    Attributes:
        findings, impression, report, sentences, tags: as of ``StudySample``.
        region_sentences: region -> its sentences, by ``sentence_index``.
        region_texts: region -> all of them as one text.
    """

    findings: int
    impression: int
    report: int
    sentences: Mapping[int, int]
    region_sentences: Mapping[str, tuple[int, ...]]
    region_texts: Mapping[str, int]
    tags: Int8[np.ndarray, " t"]


class ReportTexts:
    """Every text of some reports, each once.

    Attributes:
        texts: the list.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str | None) -> int:
        """The number of a text; blank ones have none."""
        text = " ".join((text or "").split())
        if not any(c.isalnum() for c in text):
            return NO_TEXT
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]

    def add(
        self,
        sections: Mapping[str, str],
        findings: Sequence[Finding],
        regions: Mapping[str, tuple[int, ...]],
        tagger: Tagger,
    ) -> ReportTextNumbers:
        """Number the texts of one report.

        Args:
            sections: its sections by name.
            findings: what was read in it.
            regions: region -> sentence indices.
            tagger: which tags are looked for.
        """
        texts = {row.sentence_index: row.sentence for row in findings}
        used = sorted({index for indices in regions.values() for index in indices})
        return ReportTextNumbers(
            findings=self.number(sections.get("findings")),
            impression=self.number(sections.get("impression")),
            report=self.number(full_report(sections)),
            sentences={index: self.number(texts[index]) for index in used},
            region_sentences=regions,
            region_texts={name: self.number(" ".join(texts[i] for i in found)) for name, found in regions.items()},
            tags=tagger.tags(findings),
        )


def full_report(sections: Mapping[str, str]) -> str:
    """Findings and impression as one text."""
    return " ".join(sections[name] for name in SECTIONS if sections.get(name))


def sections_by_study(store: Store, findings: Mapping[str, Sequence[Finding]]) -> dict[str, dict[str, str]]:
    """Findings and impression of studies: study -> section -> text.

    Args:
        findings: by study; a store without the reports' texts has their sentences.
    """
    found: dict[str, dict[str, str]] = {}
    for study_id, section, text in store.table("reports").select("study_id", "section", "text").iter_rows():
        if section in SECTIONS and text.strip():
            found.setdefault(study_id, {})[section] = text
    for study_id, rows in findings.items():
        if study_id not in found:
            sentences = {name: dict.fromkeys(row.sentence for row in rows if row.section == name) for name in SECTIONS}
            found[study_id] = {name: " ".join(several) for name, several in sentences.items() if several}
    return found
