"""The page of a store of radiographs: some of them with their region boxes, the sentences that belong to each region,
and the report's tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from ctglip.cxr.recipe import CXR_MAX
from ctglip.cxr.regions import region_entries
from ctglip.cxr.sentence_regions import sentences_by_region
from ctglip.files import write_text
from ctglip.modality import MODALITIES
from ctglip.pages.cxr import CxrPage, CxrSample, RegionSentences, Tag, cxr_picture, render
from ctglip.pages.parts import Fact
from ctglip.reports.tags import ABSENT, PRESENT, Tagger
from ctglip.store.findings import findings_by_study
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import Finding

CXR_PAGE = "radiographs.html"
SAMPLES = 12


def write_cxr_page(store: Store) -> Path:
    """Write ``STORE/radiographs.html``, by rename: radiographs at even steps through the list, those with boxes and
    text first."""
    reports = store.table("reports")
    with_text = set(reports.filter(pl.col("section").is_in(["findings", "impression"]))["study_id"])
    boxed = set(store.table("regions")["study_id"])
    ids = sorted(store.study_ids, key=lambda i: (i not in with_text, i not in boxed, i))
    best = [i for i in ids if i in with_text and i in boxed] or ids
    chosen = [best[n] for n in np.linspace(0, len(best) - 1, min(len(best), SAMPLES)).round().astype(int).tolist()]
    findings = findings_by_study(store, set(chosen))
    tagger, marked = Tagger(), MODALITIES[store.info.modality].marked
    page = CxrPage(
        title=f"Radiographs of {store.path.name}",
        samples=tuple(_sample(store.study(name), findings.get(name, []), tagger, marked) for name in chosen),
        facts=(
            Fact("Radiographs", str(len(ids))),
            Fact("With text", str(len(with_text))),
            Fact("With boxes", str(len(boxed))),
        ),
        notes=(
            "Boxes are those of regions that the report speaks of, numbered at their upper left corners.",
            "The patient's right is on the picture's left.",
            "A region gets the sentences that name it, or an organ of it, or a zone within it.",
            "Tags are those of findings and impression; what is uncertain is not shown.",
        ),
    )
    path = store.path / CXR_PAGE
    write_text(path, render(page))
    return path


def _sample(study: StudyReader, findings: Sequence[Finding], tagger: Tagger, marked: Sequence[str]) -> CxrSample:
    entries = region_entries()
    sentences_of = sentences_by_region(findings)
    drawn_boxes = sentences_of or marked
    boxes = [region for region in study.regions() if region.name in drawn_boxes]
    sentences = {row.sentence_index: row.sentence for row in findings}
    numbers = {region.name: number for number, region in enumerate(boxes, start=1)}
    named = [replace(r, name=entries[r.name].display if r.name in entries else r.name.replace("_", " ")) for r in boxes]
    sections = {row["section"]: row["text"] for row in study.rows("reports")}
    about = study.rows("studies")[0]
    spacing = about.get("source_spacing_mm")
    states = {PRESENT: "present", ABSENT: "absent"}
    tags = zip(tagger.names, tagger.tags(findings).tolist(), strict=True)
    return CxrSample(
        study_id=study.study_id,
        picture=cxr_picture(study.image(), CXR_MAX, named, subject=f"study {study.study_id}"),
        findings=sections.get("findings"),
        impression=sections.get("impression"),
        regions=tuple(
            RegionSentences(entries[name].display, tuple(sentences[i] for i in indices), numbers.get(name))
            for name, indices in sentences_of.items()
        ),
        tags=tuple(Tag(name, states[state]) for name, state in tags if state in states),
        facts=(
            Fact("View", about.get("view") or "unknown"),
            Fact("Size as read", " × ".join(map(str, about.get("source_shape") or ())) + " px"),
            *([Fact("Pixel", f"{spacing[0]:g} mm")] if spacing and spacing[0] != 1 else []),
        ),
    )
