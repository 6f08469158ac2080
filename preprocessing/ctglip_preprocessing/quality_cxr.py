"""The pages of a store of radiographs: quality (counts, failures, sizes, a montage), and some radiographs with all that
is known.

``radiographs.html`` shows radiographs with their region boxes, the sentences that belong to each region, and the
report's tags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ctglip.cxr.recipe import CXR_MAX
from ctglip.cxr.regions import region_entries
from ctglip.cxr.sentence_regions import sentences_by_region
from ctglip.errors import StoreError
from ctglip.files import write_text
from ctglip.pages.cxr import CxrBox, CxrPage, CxrSample, RegionSentences, Tag, cxr_picture, render
from ctglip.pages.parts import Fact, Picture
from ctglip.pages.quality import CheckCount, Distribution, QualityPage
from ctglip.reports.tags import ABSENT, PRESENT, Tagger
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.types import Failure, Finding

CXR_PAGE = "radiographs.html"
MONTAGE = 12
SHOWN = ("right_lung", "left_lung", "cardiac_silhouette", "spine", "right_hemidiaphragm", "left_hemidiaphragm")


def cxr_quality_page(store: Store, failures: Sequence[Failure], checks: tuple[CheckCount, ...]) -> QualityPage:
    """What the page says, from the store's tables."""
    studies = store.table("studies")
    rows = studies["source_shape"].list.get(0).cast(pl.Float64).to_list()
    columns = studies["source_shape"].list.get(1).cast(pl.Float64).to_list()
    return QualityPage(
        title=f"Quality of {store.path.name}",
        done=studies.height,
        failures=tuple(failures),
        facts=_facts(store, studies),
        checks=checks,
        distributions=(
            Distribution("Rows, as read", "px", tuple(rows)),
            Distribution("Columns, as read", "px", tuple(columns)),
        )
        if rows
        else (),
        montage=_montage(store),
        notes=(
            "The montage shows radiographs at even steps through the list, with the boxes of lungs, heart and spine.",
        ),
    )


def _facts(store: Store, studies: pl.DataFrame) -> tuple[Fact, ...]:
    views = Counter(view or "unknown" for view in studies["view"].to_list())
    reports = store.table("reports")
    regions = store.table("regions")
    splits = store.table("splits").group_by("split").len().sort("split")
    size = store.info.recipe.get("size")
    return (
        Fact("Patients", str(studies["patient_id"].n_unique())),
        Fact("Grid", f"{size} × {size} px", str(store.info.recipe.get("fit", ""))),
        Fact("Recipe", store.info.recipe_hash, "hash of recipe and dictionaries"),
        *(Fact(f"View {name}", str(count)) for name, count in sorted(views.items())),
        Fact("With findings", str(reports.filter(section="findings")["study_id"].n_unique())),
        Fact("With impression", str(reports.filter(section="impression")["study_id"].n_unique())),
        Fact("With boxes", str(regions["study_id"].n_unique())),
        *(Fact(f"Split {name}", f"{count} radiographs") for name, count in splits.rows()),
    )


def _montage(store: Store) -> tuple[Picture, ...]:
    ids = store.study_ids
    entries = region_entries()
    pictures: list[Picture] = []
    for number in np.linspace(0, len(ids) - 1, min(len(ids), MONTAGE)).round().astype(int).tolist():
        try:
            study = store.study(ids[number])
            image = study.image()
        except StoreError:
            continue
        rows = {row["region"]: row for row in study.rows("regions")}
        boxes = [
            CxrBox(entries[n].display, *(rows[n][edge] for edge in ("row0", "row1", "column0", "column1")))
            for n in SHOWN
            if n in rows
        ]
        subject = f"study {ids[number]}"
        pictures.append(
            cxr_picture(image, CXR_MAX, boxes, longest_px=300, subject=subject, caption=f"Study {ids[number]}.")
        )
    return tuple(pictures)


def write_cxr_page(store: Store, most: int = MONTAGE) -> Path:
    """Write ``STORE/radiographs.html``, by rename: radiographs at even steps through the list, those with boxes and
    text first."""
    reports = store.table("reports")
    with_text = set(reports.filter(pl.col("section").is_in(["findings", "impression"]))["study_id"])
    boxed = set(store.table("regions")["study_id"])
    ids = sorted(store.study_ids, key=lambda i: (i not in with_text, i not in boxed, i))
    best = [i for i in ids if i in with_text and i in boxed] or ids
    chosen = [best[n] for n in np.linspace(0, len(best) - 1, min(len(best), most)).round().astype(int).tolist()]
    tagger = Tagger()
    page = CxrPage(
        title=f"Radiographs of {store.path.name}",
        samples=tuple(_sample(store.study(study_id), tagger) for study_id in chosen),
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


def _sample(study: StudyReader, tagger: Tagger) -> CxrSample:
    entries = region_entries()
    findings = [Finding(**{k: v for k, v in row.items() if k != "study_id"}) for row in study.rows("findings")]
    sentences_of = sentences_by_region(findings)
    rows = [row for row in study.rows("regions") if row["region"] in (sentences_of or SHOWN)]
    edges = ("row0", "row1", "column0", "column1")
    boxes = [CxrBox(_display(row["region"]), *(row[edge] for edge in edges)) for row in rows]
    sentences = {row.sentence_index: row.sentence for row in findings}
    numbers = {row["region"]: number for number, row in enumerate(rows, start=1)}
    sections = {row["section"]: row["text"] for row in study.rows("reports")}
    about = study.rows("studies")[0]
    spacing = about.get("source_spacing_mm")
    states = {PRESENT: "present", ABSENT: "absent"}
    tags = zip(tagger.names, tagger.tags(findings).tolist(), strict=True)
    return CxrSample(
        study_id=study.study_id,
        picture=cxr_picture(study.image(), CXR_MAX, boxes, subject=f"study {study.study_id}"),
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


def _display(region: str) -> str:
    entry = region_entries().get(region)
    return region.replace("_", " ") if entry is None else entry.display
