"""The quality page of a store: counts, failures, distributions with outliers, and a look at some studies."""

from __future__ import annotations

import json
from array import array
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
MOST_PLOTTED = 20_000
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
    """What the page says, from the store's tables, of which no more is read than it says."""
    distributions = _distributions(store)
    done = _read(store.scan("studies").select(pl.len())).item()
    return QualityPage(
        title=f"Quality of {store.path.name}",
        done=done,
        failures=tuple(replace(one, message=without_folders(one.message)) for one in failures),
        facts=_facts(store),
        checks=(*_store_checks(store), *_checks(store)),
        distributions=distributions,
        sources=source_agreement(store),
        montage=_montage(store, distributions),
        notes=(
            *notes,
            "Studies with a check of severity error do not enter the store (they are among the failures), unless the "
            "settings say error_checks: keep.",
            f"Outliers lie more than {ODD:g} robust standard deviations (by median and median deviation) from the "
            "median; volumes are compared on a logarithmic scale.",
            *(() if _read(store.scan("organs").head(1)).is_empty() else _ORGAN_NOTES),
            *([f"Of more than {MOST_PLOTTED} values as many are drawn, at even ranks."] if done > MOST_PLOTTED else ()),
            "The montage shows studies with outliers first, then others at even steps through the list.",
        ),
    )


def without_masks(store: Store) -> tuple[str, ...]:
    """Ids of the store's images that need organ masks and have none."""
    if not modality_in(store).needs_masks:
        return ()
    lacking = store.scan("studies").join(store.scan("organs"), on="study_id", how="anti")
    return tuple(_read(lacking.select("study_id"))["study_id"].sort().to_list())


def _read(rows: pl.LazyFrame) -> pl.DataFrame:
    """Rows of a store's tables, read piece by piece: the tables may be far larger than what is asked of them."""
    return rows.collect(engine="streaming")


def same_images(store: Store) -> tuple[tuple[str, ...], ...]:
    """Ids of studies that hold the same image though they are of different patients, group by group."""
    known = store.scan("studies").drop_nulls("image_checksum").select("image_checksum", "study_id", "patient_id")
    several = known.group_by("image_checksum").agg(pl.col("patient_id").n_unique()).filter(pl.col("patient_id") > 1)
    shared = known.join(several, on="image_checksum", how="semi").group_by("image_checksum").agg("study_id")
    return tuple(sorted(tuple(sorted(ids)) for ids in _read(shared)["study_id"].to_list()))


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


def _facts(store: Store) -> tuple[Fact, ...]:
    modality, reports, studies = modality_in(store), store.scan("reports"), store.scan("studies")
    lesions, findings = (_read(store.scan(name).select(pl.len())).item() for name in ("lesions", "findings"))
    views = _read(studies.drop_nulls("view").group_by("view").len()).sort("view")
    splits = store.table("splits").group_by("split").len().sort("split")

    def studies_in(table: pl.LazyFrame) -> str:
        return str(_read(table.select(pl.col("study_id").n_unique())).item())

    masks = [
        Fact("With organ masks", studies_in(store.scan("organs"))),
        Fact("Without organ masks", str(len(without_masks(store)))),
    ]
    return (
        Fact("Patients", str(_read(studies.select(pl.col("patient_id").n_unique())).item())),
        Fact("Grid", modality.grid(store.info.recipe), "the recipe's"),
        Fact("Recipe", store.info.recipe_hash, "hash of recipe and dictionaries"),
        *(Fact(f"View {name}", str(count)) for name, count in views.iter_rows()),
        *(masks if modality.needs_masks else ()),
        *([Fact("With boxes", studies_in(store.scan("regions")))] if modality.has_boxes else ()),
        Fact("With report", studies_in(reports)),
        Fact("With findings", studies_in(reports.filter(section="findings"))),
        Fact("With impression", studies_in(reports.filter(section="impression"))),
        Fact("Findings", str(findings), "rows of findings.parquet"),
        *([Fact("Drawn findings", str(lesions), "rows of lesions.parquet")] if lesions else ()),
        *(Fact(f"Split {name}", f"{count} studies") for name, count in splits.iter_rows()),
    )


def _checks(store: Store) -> tuple[CheckCount, ...]:
    times: Counter[tuple[str, str]] = Counter()
    studies: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], tuple[str, str]] = {}
    noted = store.scan("studies").filter(pl.col("checks").fill_null("[]") != "[]").select("study_id", "checks")
    for study_id, text in _read(noted).sort("study_id").iter_rows():
        checks = json.loads(text)
        for check in checks:
            first.setdefault((check["severity"], check["code"]), (check["message"], study_id))
        times.update((check["severity"], check["code"]) for check in checks)
        studies.update({(check["severity"], check["code"]) for check in checks})
    rank = {"error": 0, "warning": 1, "info": 2}
    order = sorted(times, key=lambda key: (rank[key[0]], -times[key], key[1]))
    return tuple(
        CheckCount(code, severity, studies[severity, code], *first[severity, code])  # pyright: ignore[reportArgumentType]
        for severity, code in order
    )


def _distributions(store: Store) -> tuple[Distribution, ...]:
    modality, organs, rows = modality_in(store), load_organs(), store.scan("organs")
    grids = store.scan("studies").drop_nulls("source_spacing_mm")
    read = _read(grids.select("study_id", "source_shape", "source_spacing_mm")).sort("study_id")
    ids, sizes = read["study_id"].to_list(), defaultdict[tuple[str, str], "array[float]"](lambda: array("d"))
    for _, *grid in read.iter_rows():
        for key, size in modality.size(*grid).items():
            sizes[key].append(size)
    made = [_distribution(name, unit, ids, np.array(values)) for (name, unit), values in sizes.items()]
    segmented = rows.filter(pl.col("organ").is_in([name for name in organs.names if organs.labels_of(name)]))
    made.append(_distribution("Organs found", "", *_columns(_read(segmented.group_by("study_id").len()), "len")))
    for name in modality.marked:
        found = _read(rows.filter(organ=name).drop("organ", "^[xyz][01]$"))
        if found.is_empty():
            continue
        inside = found.filter(~pl.col("touches_border"))
        display = organs[name].display.capitalize()
        made.append(_distribution(f"{display}, volume", "ml", *_columns(inside, "volume_ml"), log=True))
        made.append(_distribution(f"{display}, mean", "HU", *_columns(found, "mean_hu")))
        made.append(_distribution(f"{display}, spread", "HU", *_columns(found.drop_nulls("sd_hu"), "sd_hu")))
    return tuple(distribution for distribution in made if distribution.values)


def _columns(table: pl.DataFrame, name: str) -> tuple[list[str], np.ndarray]:
    table = table.sort("study_id")
    return table["study_id"].to_list(), table[name].to_numpy().astype(float)


def _distribution(name: str, unit: str, ids: list[str], values: np.ndarray, log: bool = False) -> Distribution:
    odd = oddness(np.log(np.maximum(values, 1e-3)) if log else values)
    worst = sorted((i for i in range(len(ids)) if odd[i] > ODD), key=lambda i: (-odd[i], ids[i]))
    outliers = tuple(Outlier(ids[i], float(values[i])) for i in worst[:MOST_OUTLIERS])
    ranks = np.linspace(0, len(values) - 1, MOST_PLOTTED, dtype=int)
    plotted = values if len(values) <= MOST_PLOTTED else np.sort(values)[ranks]
    return Distribution(name, unit, tuple(plotted.tolist()), outliers)


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
