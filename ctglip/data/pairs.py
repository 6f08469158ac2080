"""Whole scans of a split, each with its whole report or with one sentence of it at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ctglip.data.captions import CaptionBuilder
from ctglip.data.dataset import Batch, numbers, stack
from ctglip.data.organs import DataSettings
from ctglip.data.samples import StudySample, without_organs
from ctglip.data.studies import Chance, ScanDataSettings, WholeScans
from ctglip.store.tables import Store
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary

_READ = ("findings", "impression")


class PairDataset(WholeScans[StudySample]):
    """Whole scans with their whole reports, or with one sentence at a time: a torch dataset, whose ``collate`` a
    ``DataLoader`` takes.

    Args:
        store, split, organs, abnormalities, data, settings, seed: as for ``data.studies.StudyDataset``; of ``data``
            the control ``permute_texts`` and the augmentation of HU count.

    Attributes:
        sayings: what is said of the wanted organs, which tells what a model was trained on.
        texts: every text that can be drawn; ``bind`` gives their numbers elsewhere.

    Raises:
        StoreError: the split is empty, or fewer than two of its studies have a report.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        organs: OrganDictionary,
        abnormalities: AbnormalityDictionary,
        data: DataSettings,
        settings: ScanDataSettings,
        seed: int = 0,
    ) -> None:
        super().__init__(store, split, organs, abnormalities, data, settings, seed)
        reports = _reports(store, set(self.study_ids)) if settings.text == "report" else {}
        found = {
            name: reports.get(name) or _sentences(self.findings.get(name, []), settings.text) for name in self.study_ids
        }
        self._keep_told(found, store, split)
        book = CaptionBuilder(organs, abnormalities, data.unmentioned_as_negative)
        said = [(self.findings.get(name, []), organ) for name in self.study_ids for organ in self.organ_names]
        self.captions = [captions for captions in book.add_all(said) if captions.kind != "silent"]
        self.texts = list(dict.fromkeys(text for name in self.study_ids for text in found[name]))
        number = {text: instance for instance, text in enumerate(self.texts)}
        self._said = [np.array([number[text] for text in found[name]]) for name in self.study_ids]
        if data.permute_texts:
            self._said = [self._said[i] for i in np.random.default_rng(seed).permutation(len(self._said))]
        self.bind(range(len(self.texts)), organs.names)

    def bind(self, text_ids: Sequence[int], organ_names: Sequence[str]) -> None:  # noqa: ARG002  (as the others have it)
        """Give the numbers by which others know things: for each of ``texts``, its index in the text bank."""
        self._text_ids = np.asarray(text_ids, dtype=np.int64)

    def collate(self, samples: Sequence[StudySample]) -> Batch:
        """``image [b, c, x, y, z]``, ``text`` and its number ``report``."""
        found = numbers(samples, ("report",))
        return {"image": stack(samples, "image"), "text": self.text_of(found["report"]), **found}

    def _samples(
        self, rows: Sequence[int], rng: np.random.Generator, chance: Chance, rank: int = 0, world: int = 1
    ) -> list[StudySample]:
        drawn = [(n, (self.study_ids[row], int(rng.choice(self._said[row])))) for n, row in enumerate(rows)][
            rank::world
        ]
        names = [self.study_ids[rows[instance]] for instance, _ in drawn]
        found = self._images(drawn, names, chance)
        return [
            without_organs(study_id, image[None], report=int(self._text_ids[text]))
            for (study_id, text), _, image in found
        ]


def _reports(store: Store, study_ids: set[str]) -> dict[str, tuple[str, ...]]:
    """Findings and impression of some studies, as one text."""
    found: dict[str, dict[str, str]] = {}
    for row in store.table("reports").iter_rows(named=True):
        if row["study_id"] in study_ids and row["section"] in _READ:
            found.setdefault(row["study_id"], {})[row["section"]] = row["text"].strip()
    texts = {name: " ".join(parts[s] for s in _READ if parts.get(s)) for name, parts in found.items()}
    return {name: (text,) for name, text in texts.items() if text}


def _sentences(findings: Sequence[Finding], text: Literal["report", "sentence"]) -> tuple[str, ...]:
    """The sentences of a report's findings and impression, apart or as one text."""
    said = tuple(dict.fromkeys(finding.sentence for finding in findings if finding.section in _READ))
    return (" ".join(said),) if said and text == "report" else said
