"""What reports say, as numbers of texts: sections, sentences, the sentences of each region, tags.

A missing section is -1 among the numbers, never an empty or made-up text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int8

from ctglip.cxr.sentence_regions import SECTIONS
from ctglip.data.captions import CaptionBuilder, OrganCaptions
from ctglip.data.dataset import Batch, TextDataset, owners, stack
from ctglip.data.samples import NO_TEXT, StudySample
from ctglip.reports.tags import Tagger
from ctglip.store.tables import Store
from ctglip.types import Finding


@dataclass(frozen=True)
class Said:
    """What one report says, by numbers in the list of texts.

    Attributes:
        findings, impression, report, sentences, tags: as for ``StudySample``.
        regions: region -> its sentences.
        region_texts: region -> all of them as one text.
    """

    findings: int
    impression: int
    report: int
    sentences: dict[int, int]
    regions: Mapping[str, tuple[int, ...]]
    region_texts: dict[str, int]
    tags: Int8[np.ndarray, " t"]


class ReportTexts:
    """Every text that some reports give, each once.

    Attributes:
        texts: the list; ``bind`` gives their numbers elsewhere.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self._ids: Int[np.ndarray, " n"] | None = None

    def bind(self, text_ids: Sequence[int]) -> None:
        """Give each of ``texts`` the index that it has in the text bank."""
        self._ids = np.asarray(text_ids, dtype=np.int64)

    @property
    def ids(self) -> Sequence[int]:
        """The index of each of ``texts`` in the text bank."""
        return range(len(self.texts)) if self._ids is None else self._ids.tolist()

    def id(self, number: int) -> int:
        """The index of a text in the text bank."""
        return number if number == NO_TEXT or self._ids is None else int(self._ids[number])

    def number(self, text: str | None) -> int:
        """The number of a text; blank ones have none."""
        text = " ".join((text or "").split())
        if not any(c.isalnum() for c in text):
            return NO_TEXT
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]

    def say(
        self,
        sections: Mapping[str, str],
        rows: Sequence[Finding],
        regions: Mapping[str, tuple[int, ...]],
        tagger: Tagger,
    ) -> Said:
        """One report.

        Args:
            sections: its sections by name.
            rows: its findings.
            regions: region -> sentence indices.
            tagger: which tags are looked for.
        """
        texts = {row.sentence_index: row.sentence for row in rows}
        used = sorted({index for indices in regions.values() for index in indices})
        both = " ".join(filter(None, (sections.get("findings"), sections.get("impression"))))
        sentences = {index: self.number(texts[index]) for index in used}
        return Said(
            findings=self.number(sections.get("findings")),
            impression=self.number(sections.get("impression")),
            report=self.number(both),
            sentences=sentences,
            regions=regions,
            region_texts={name: self.number(" ".join(texts[i] for i in found)) for name, found in regions.items()},
            tags=tagger.tags(rows),
        )

    def sample(
        self,
        study_id: str,
        said: Said,
        images: Float[np.ndarray, "v c *s"],
        boxes: Float[np.ndarray, "v m e"],
        region_id: Int[np.ndarray, " m"],
        regions: Sequence[str],
    ) -> StudySample:
        """A study with its report; regions without extent in one of the views are left out.

        Args:
            boxes: of the study's regions.
            region_id: which they are.
            regions: their names, by id.
        """
        kept = (boxes[..., 1::2] - boxes[..., ::2] >= 1).all(axis=(0, 2))
        names = [regions[int(number)] for number in region_id[kept]]
        texts = [self.id(said.region_texts.get(name, NO_TEXT)) for name in names]
        return StudySample(
            study_id=study_id,
            images=images,
            boxes=boxes[:, kept].astype(np.float32),
            labels=None,
            size=np.zeros((len(texts), 4), np.float32),
            organ_id=region_id[kept],
            text_id=np.array(texts, dtype=np.int64),
            text_key=np.array(texts, dtype=np.int64),
            negative_ids=np.zeros((len(texts), 0), np.int64),
            findings=self.id(said.findings),
            impression=self.id(said.impression),
            report=self.id(said.report),
            sentences={index: self.id(number) for index, number in said.sentences.items()},
            organ_sentences=tuple(said.regions.get(name, ()) for name in names),
            tags=said.tags,
        )


def reports_of_images(samples: Sequence[StudySample], regions: Sequence[str], words: TextDataset[Any]) -> Batch:
    """Images with their reports as one batch.

    Returns:
        ``images [b, v, c, *s]`` and the first view ``image``; ``study_id``; the sections ``findings``, ``impression``
        and both as ``text`` (None where there is none); ``tags [b, t]``; ``labels`` or None; of all regions, one
        image's after the other's: ``study_index``, ``region`` (names), ``region_id``, ``boxes [m, v, e]`` and
        ``region_text`` (None where nothing is said).
    """
    images = stack(samples, "images")
    region_id = torch.cat([torch.as_tensor(sample.organ_id) for sample in samples])
    sections = {name: words.text_of([getattr(s, name) for s in samples]) for name in ("findings", "impression")}
    return {
        "image": images[:, 0],
        "images": images,
        "labels": None if samples[0].labels is None else stack(samples, "labels"),
        "study_id": [sample.study_id for sample in samples],
        **sections,
        "text": words.text_of([sample.report for sample in samples]),
        "tags": stack(samples, "tags"),
        "study_index": owners([len(sample.organ_id) for sample in samples]),
        "region": [regions[int(number)] for number in region_id],
        "region_id": region_id,
        "boxes": torch.cat([torch.as_tensor(sample.boxes).transpose(0, 1) for sample in samples]),
        "region_text": words.text_of(np.concatenate([sample.text_id for sample in samples])),
    }


def sections_by_study(store: Store) -> dict[str, dict[str, str]]:
    """The sections of all reports: study -> section -> text."""
    found: dict[str, dict[str, str]] = {}
    for study_id, section, text in store.table("reports").select("study_id", "section", "text").iter_rows():
        found.setdefault(study_id, {})[section] = text
    return found


def organs_spoken_of(
    findings: Mapping[str, Sequence[Finding]], study_ids: Sequence[str], book: CaptionBuilder
) -> list[OrganCaptions]:
    """What reports say of the organs that any of them speaks of and that the dictionary has abnormalities of."""
    named = {row.organ for name in study_ids for row in findings.get(name, ()) if row.section in SECTIONS}
    organs = [name for name in book.organs.names if name in named and book.abnormalities.of_organ(name)]
    said = book.add_all([(findings.get(name, ()), organ) for name in study_ids for organ in organs])
    return [captions for captions in said if captions.kind != "silent"]
