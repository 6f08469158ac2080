"""The quality page of a store: counts, failures, distributions with outliers, and a look at some studies."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctglip.errors import StoreError
from ctglip.files import without_folders, write_text
from ctglip.modality import MODALITIES, Modality
from ctglip.pages.parts import Fact, Picture
from ctglip.pages.quality import CheckCount, Distribution, Outlier, QualityPage, render
from ctglip.store.tables import Store
from ctglip.types import Failure, Standardized
from ctglip.vocabulary.organs import load_organs
from ctglip_preprocessing.disagreement import source_agreement
from ctglip_preprocessing.radiographs import write_cxr_page

QUALITY_PAGE = "quality.html"
MONTAGE = 12
ODD = 4.0
"""A value is an outlier when its robust z-score (by median and MAD) is beyond this."""
MOST_OUTLIERS = 8
_ORGAN_NOTES = (
    "Organs that touch the border of the scan are left out of the volumes: they may be cut off.",
    "Mean and spread (standard deviation) of HU are taken over all voxels of an organ's masks.",
)


def write_quality_page(store: Store, failures: Sequence[Failure] = (), notes: Sequence[str] = ()) -> Path:
    """Write ``STORE/quality.html``, by rename, and ``radiographs.html`` beside it where images have boxes of regions.

    The same store and failures give the same page.
    """
    path = store.path / QUALITY_PAGE
    write_text(path, render(quality_page(store, failures, notes)))
    if modality_in(store).has_boxes and store.study_ids:
        write_cxr_page(store)
    return path


def modality_in(store: Store) -> Modality[Any, Any]:
    """The kind of images in a store."""
    return MODALITIES[store.info.modality]


def quality_page(store: Store, failures: Sequence[Failure] = (), notes: Sequence[str] = ()) -> QualityPage:
    """What the page says, from the store's tables."""
    studies = store.table("studies")
    distributions = _distributions(store, studies)
    return QualityPage(
        title=f"Quality of {store.path.name}",
        done=studies.height,
        failures=tuple(replace(one, message=without_folders(one.message)) for one in failures),
        facts=_facts(store, studies),
        checks=(*_store_checks(store), *_checks(studies)),
        distributions=distributions,
        sources=source_agreement(store),
        montage=_montage(store, distributions),
        notes=(
            *notes,
            "Studies with a check of severity error do not enter the store (they are among the failures), unless the "
            "settings say error_checks: keep.",
            f"Outliers lie more than {ODD:g} robust standard deviations (by median and median deviation) from the "
            "median; volumes are compared on a logarithmic scale.",
            *(() if store.table("organs").is_empty() else _ORGAN_NOTES),
            "The montage shows studies with outliers first, then others at even steps through the list.",
        ),
    )


def without_masks(store: Store) -> tuple[str, ...]:
    """Ids of the store's images that need organ masks and have none."""
    if not modality_in(store).needs_masks:
        return ()
    lacking = store.table("studies").join(store.table("organs"), on="study_id", how="anti")
    return tuple(lacking["study_id"].to_list())


def same_images(store: Store) -> tuple[tuple[str, ...], ...]:
    """Ids of studies that hold the same image though they are of different patients, group by group."""
    studies = store.table("studies")
    if "image_checksum" not in studies.columns:
        return ()
    known = studies.drop_nulls("image_checksum")
    shared = known.group_by("image_checksum").agg(pl.col("study_id").sort(), pl.col("patient_id").n_unique())
    return tuple(tuple(ids) for ids in shared.filter(pl.col("patient_id") > 1)["study_id"].sort().to_list())


def _store_checks(store: Store) -> tuple[CheckCount, ...]:
    """What shows only when studies are seen together."""
    found: list[CheckCount] = []
    if groups := same_images(store):
        ids = [study_id for group in groups for study_id in group]
        meaning = f"The same image stands under several patients ({'; '.join(', '.join(g) for g in groups[:5])})."
        found.append(CheckCount("same_image", "warning", len(ids), meaning, ids[0]))
    if lacking := list(without_masks(store)):
        outlined = ", ".join(lacking[:20]) + (" ..." if len(lacking) > 20 else "")
        meaning = f"No organ masks, so that no organ of them is trained on: {outlined}."
        found.append(CheckCount("no_masks", "warning", len(lacking), meaning, lacking[0]))
    return tuple(found)


def _facts(store: Store, studies: pl.DataFrame) -> tuple[Fact, ...]:
    modality, reports, lesions = modality_in(store), store.table("reports"), store.table("lesions").height
    views = studies.drop_nulls("view").group_by("view").len().sort("view")
    splits = store.table("splits").group_by("split").len().sort("split")

    def studies_in(table: pl.DataFrame) -> str:
        return str(table["study_id"].n_unique())

    masks = [
        Fact("With organ masks", studies_in(store.table("organs"))),
        Fact("Without organ masks", str(len(without_masks(store)))),
    ]
    return (
        Fact("Patients", str(studies["patient_id"].n_unique())),
        Fact("Grid", modality.grid(store.info.recipe), "the recipe's"),
        Fact("Recipe", store.info.recipe_hash, "hash of recipe and dictionaries"),
        *(Fact(f"View {name}", str(count)) for name, count in views.iter_rows()),
        *(masks if modality.needs_masks else ()),
        *([Fact("With boxes", studies_in(store.table("regions")))] if modality.has_boxes else ()),
        Fact("With report", studies_in(reports)),
        Fact("With findings", studies_in(reports.filter(section="findings"))),
        Fact("With impression", studies_in(reports.filter(section="impression"))),
        Fact("Findings", str(store.table("findings").height), "rows of findings.parquet"),
        *([Fact("Drawn findings", str(lesions), "rows of lesions.parquet")] if lesions else ()),
        *(Fact(f"Split {name}", f"{count} studies") for name, count in splits.iter_rows()),
    )


def _checks(studies: pl.DataFrame) -> tuple[CheckCount, ...]:
    checks_by_code: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for study_id, text in studies.select("study_id", "checks").iter_rows():
        for check in json.loads(text or "[]"):
            checks_by_code[check["severity"], check["code"]].append((study_id, check["message"]))
    rank = {"error": 0, "warning": 1, "info": 2}
    order = sorted(checks_by_code.items(), key=lambda item: (rank[item[0][0]], -len(item[1]), item[0][1]))
    return tuple(
        CheckCount(code, severity, len({i for i, _ in found}), found[0][1], found[0][0])  # pyright: ignore[reportArgumentType]
        for (severity, code), found in order
    )


def _distributions(store: Store, studies: pl.DataFrame) -> tuple[Distribution, ...]:
    modality, organs, rows = modality_in(store), load_organs(), store.table("organs")
    read = studies.drop_nulls("source_spacing_mm")
    sizes = [modality.size(*row) for row in read.select("source_shape", "source_spacing_mm").iter_rows()]
    ids = read["study_id"].to_list()
    made = [
        _distribution(name, unit, ids, np.array([size[name, unit] for size in sizes], float))
        for name, unit in (sizes[0] if sizes else ())
    ]
    segmented = rows.filter(pl.col("organ").is_in([name for name in organs.names if organs.labels_of(name)]))
    made.append(
        _distribution("Organs found", "", *_columns(segmented.group_by("study_id").len().sort("study_id"), "len"))
    )
    for name in modality.marked:
        found = rows.filter(organ=name)
        if found.is_empty():
            continue
        inside = found.filter(~pl.col("touches_border"))
        display = organs[name].display.capitalize()
        made.append(_distribution(f"{display}, volume", "ml", *_columns(inside, "volume_ml"), log=True))
        made.append(_distribution(f"{display}, mean", "HU", *_columns(found, "mean_hu")))
        made.append(_distribution(f"{display}, spread", "HU", *_columns(found.drop_nulls("sd_hu"), "sd_hu")))
    return tuple(distribution for distribution in made if distribution.values)


def _columns(table: pl.DataFrame, name: str) -> tuple[list[str], np.ndarray]:
    return table["study_id"].to_list(), table[name].to_numpy().astype(float)


def _distribution(name: str, unit: str, ids: list[str], values: np.ndarray, log: bool = False) -> Distribution:
    odd = oddness(np.log(np.maximum(values, 1e-3)) if log else values)
    worst = sorted((i for i in range(len(ids)) if odd[i] > ODD), key=lambda i: (-odd[i], ids[i]))
    outliers = tuple(Outlier(ids[i], float(values[i])) for i in worst[:MOST_OUTLIERS])
    return Distribution(name, unit, tuple(values.tolist()), outliers)


def oddness(values: np.ndarray) -> np.ndarray:
    """Robust z-scores, ``|value - median| / (1.4826 MAD)``; 0 for fewer than 8 values.

    Where more than half of the values are equal the MAD is 0 and the mean deviation takes its place.
    """
    if len(values) < 8:
        return np.zeros(len(values))
    away = np.abs(values - np.median(values))
    scale = 1.4826 * float(np.median(away)) or 1.2533 * float(away.mean())
    return away / scale if scale > 0 else away


def _montage(store: Store, distributions: Sequence[Distribution]) -> tuple[Picture, ...]:
    """One look shows orientation, sides, and whether masks or boxes sit on organs."""
    ids = store.study_ids
    odd = Counter(outlier.study_id for d in distributions for outlier in d.outliers)
    first = [study_id for study_id, _ in sorted(odd.items(), key=lambda item: (-item[1], item[0]))][: MONTAGE // 2]
    steps = np.linspace(0, len(ids) - 1, min(len(ids), MONTAGE)).round().astype(int)
    chosen = list(dict.fromkeys((*first, *(ids[i] for i in steps))))[:MONTAGE]
    pictures: list[Picture] = []
    for study_id in chosen:
        try:
            study = store.study(study_id)
            examples = Standardized(study.image(), study.organs(), study.affine, regions=study.regions())
        except StoreError:
            continue
        picture = modality_in(store).overview(examples, load_organs(), f"study {study_id}")
        pictures.append(replace(picture, caption=f"Study {study_id}. {picture.caption}".rstrip()))
    return tuple(pictures)
