"""The quality page of a store of films: counts, failures, pixel spacings, and a look at some films with their boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl

from ctglip.errors import StoreError
from ctglip.film.recipe import FILM_MAX
from ctglip.film.regions import region_entries
from ctglip.pages.film import FilmBox, film_picture
from ctglip.pages.parts import Fact, Picture
from ctglip.pages.quality import CheckCount, Distribution, QualityPage
from ctglip.store.tables import Store
from ctglip.types import Failure

MONTAGE = 12
SHOWN = ("right_lung", "left_lung", "cardiac_silhouette", "spine", "right_hemidiaphragm", "left_hemidiaphragm")


def film_quality_page(store: Store, failures: Sequence[Failure], checks: tuple[CheckCount, ...]) -> QualityPage:
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
        notes=("The montage shows films at even steps through the list, with the boxes of lungs, heart and spine.",),
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
        *(Fact(f"Split {name}", f"{count} films") for name, count in splits.rows()),
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
            FilmBox(entries[n].display, *(rows[n][edge] for edge in ("row0", "row1", "column0", "column1")))
            for n in SHOWN
            if n in rows
        ]
        subject = f"study {ids[number]}"
        pictures.append(
            film_picture(image, FILM_MAX, boxes, longest_px=300, subject=subject, caption=f"Study {ids[number]}.")
        )
    return tuple(pictures)
