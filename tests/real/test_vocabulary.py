"""Every item of the public vocabularies has an entry, or a reason why it has none."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from ctglip.vocabulary.sources import load_sources
from tests.vocabulary.coverage import coverage


def _json(read: Callable[[Any], Iterable[str]]) -> Callable[[Path], Iterable[str]]:
    return lambda path: read(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))


def _tables(vocabulary: dict[str, Any]) -> Iterable[str]:
    return (item for value in vocabulary.values() if isinstance(value, dict) for item in value)


def _slicer(path: Path) -> Iterable[str]:
    with path.with_suffix(".csv").open(encoding="utf-8") as stream:
        return [row["Name"] for row in csv.DictReader(stream)]


ITEMS: dict[str, Callable[[Path], Iterable[str]]] = {
    "ct_rate_18_abnormalities": _json(lambda names: names),
    "merlin_30_findings": _json(lambda data: data["findings"]),
    "radar_36organs_and_abnormality_items": _json(
        lambda data: [*data["organ_abnormality_items_zh_en"].values(), *data["organ_order_1_to_36_en"]]
    ),
    "sarle_ct_abnormality_vocabulary": _json(_tables),
    "sarle_cxr_abnormality_vocabulary": _json(_tables),
    "sarle_location_vocabulary": _json(_tables),
    "chexpert_labeler_phrases": _json(lambda data: {p for phrases in data.values() for p in phrases if p}),
    "medklip_cxr_observation_explanations": _json(lambda data: data),
    "totalsegmentator_class_maps_v1_v2": _json(lambda data: [name for task in data.values() for name in task.values()]),
    "totalsegmentator_other_tasks": _json(lambda data: [name for task in data.values() for name in task.values()]),
    "totalsegmentator_snomed_mapping_slicer": _slicer,
}
FEWEST = {"radar_36organs_and_abnormality_items": 182, "merlin_30_findings": 30, "chexpert_labeler_phrases": 140}


@pytest.mark.parametrize("name", ITEMS)
def test_every_item_is_found_or_declined(name: str, real_data: Path) -> None:
    items = sorted(set(ITEMS[name](real_data / "lists" / name)))
    assert len(items) >= FEWEST.get(name, 18)
    became = coverage(items, load_sources().lists[name], load_organs(), load_abnormalities())
    assert became.missing == ()
    assert became.found.keys() | became.declined.keys() == set(items)
    assert len(became.found) > len(became.declined) or name == "totalsegmentator_snomed_mapping_slicer"


def test_no_list_but_the_phecodes_is_left_out(real_data: Path) -> None:
    files = {path.stem for path in (real_data / "lists").glob("*.*") if path.suffix in (".json", ".csv")}
    assert files - {"merlin_phenotypes_phecodes"} == set(ITEMS) == set(load_sources().lists)


@pytest.mark.parametrize("name", ITEMS)
def test_nothing_is_written_down_in_vain(name: str, real_data: Path) -> None:
    """Every mapped item and every reason is about something that the list holds."""
    items = set(ITEMS[name](real_data / "lists" / name))
    source = load_sources().lists[name]
    shared = set(load_sources().lists["totalsegmentator_snomed_mapping_slicer"].maps)
    assert set(source.maps) - items <= (shared if name.startswith("totalsegmentator") else set())
    used = {source.reason(item) for item in items}
    assert set(source.declined) <= used
