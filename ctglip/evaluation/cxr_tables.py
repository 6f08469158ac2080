"""The parts of an evaluation that only radiographs have, as tables of its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ctglip.evaluation.bootstrap import Interval
from ctglip.evaluation.five_by_200 import FiveBy200
from ctglip.evaluation.grounding import CxrPointed
from ctglip.evaluation.published_tables import published_tables
from ctglip.evaluation.settings import CxrEvaluation
from ctglip.evaluation.tagging import Tagged
from ctglip.inference.scoring import Dictionaries
from ctglip.pages.parts import Score, Table
from ctglip.pages.wording import DASH, interval, number


def _cells(found: Interval | None) -> tuple[str, str]:
    if found is None:
        return DASH, DASH
    return number(found.value), interval(Score(found.value, found.low, found.high)) or DASH


def _name(name: str, dictionaries: Dictionaries) -> str:
    return "All" if name == "all" else dictionaries.abnormalities[name].display


def _pointing(found: tuple[CxrPointed, ...], dictionaries: Dictionaries) -> Table:
    return Table(
        "cxr_pointing",
        "Does it look at the finding?",
        "How often the map of an answer about a radiograph that shows the finding peaks inside a lesion, within a "
        "twentieth "
        "of the radiograph's width of one, and in the box of the finding's organ; by chance: a random pixel of the "
        "map.",
        ("Abnormality", "Answers", "In a lesion", "95 % interval", "By chance", "Near", "By chance", "In its organ",
         "95 % interval", "By chance"),
        tuple(
            (
                _name(p.abnormality, dictionaries), f"{p.radiographs:,}", *_cells(p.lesion), number(p.lesion_chance),
                _cells(p.near)[0], number(p.near_chance), *_cells(p.region), number(p.region_chance),
            )
            for p in found
        ),
    )  # fmt: skip


def _five(found: FiveBy200, dictionaries: Dictionaries) -> Table:
    names = ", ".join(_name(name, dictionaries).lower() for name in found.classes)
    chance = 1 / len(found.classes)
    rows = [("Radiographs whose class is told", *_cells(found.accuracy), number(chance))]
    rows += [("Macro F1 of that", number(found.macro_f1), DASH, DASH)]
    rows += [
        (f"Prompt to radiograph, precision at {at.k}", *_cells(at.precision), number(at.chance))
        for at in found.text_to_image
    ]
    rows += [
        (f"Radiograph to report, precision at {at.k}", *_cells(at.precision), number(at.chance))
        for at in found.image_to_report
    ]
    table = published_tables()["cxr_five_by_200"]
    if found.complete and set(found.classes) == set(CxrEvaluation().classes) and found.image_to_report:
        rows += [
            (f"{row.model}, precision at {k}", number(value / 100), DASH, table.source_of(row))
            for row in table.rows
            for k, value in zip(table.shares, row.values["precision"], strict=True)
        ]
    return Table(
        "five_by_200",
        f"{len(found.classes)} classes of {found.per_class:,} radiographs",
        f"Radiographs that show one of these and none of the others: {names}. Asked with "
        f"{max(map(len, found.prompts.values()))} prompts a class, all radiographs at once.",
        ("What", "Share", "95 % interval", "By chance"),
        tuple(rows),
    )


def _tags(found: Tagged, dictionaries: Dictionaries) -> Table:
    rows = [("All", "", *_cells(found.macro_auroc), DASH, DASH)]
    rows += [
        (
            _name(t.abnormality, dictionaries),
            t.tag if t.trained else f"{t.tag} (not of training)",
            *_cells(t.auroc),
            number(t.at.f1 if t.at else None),
            f"{t.positives:,} of {t.n:,}",
        )
        for t in found.findings
    ]
    return Table(
        "tags",
        "Asked by the decoder of tags",
        "The same radiographs, asked by the decoder in place of the similarity with prompts; F1 at thresholds of the "
        "split "
        "val.",
        ("Abnormality", "Tag", "AUROC", "95 % interval", "F1", "Radiographs"),
        tuple(rows),
        words=2,
    )


def published_probe(parts: Mapping[str, Any]) -> Table | None:
    """Linear probes that others published on the labels of the protocol that was asked for, beside the own one."""
    probe, tables = parts["probe"], parts["protocol"].tables
    if not tables:
        return None
    key, column = next(iter(tables.items()))
    table = published_tables()[key]
    heads = tuple(f"{share} %" for share in table.shares)
    own = ("This model (organ features, this store)", *("",) * (len(heads) - 1), number(probe.macro_auroc.value), "")
    rows = [
        (row.model, *(number(value / 100) for value in row.values[column]), table.source_of(row)) for row in table.rows
    ]
    return Table(
        "published_probe",
        f"{table.name}: {table.columns[column]}",
        "As published, by the share of the labels that was used. Other patients and other training: beside yours, not "
        "against it.",
        ("Model", *heads, "Source"),
        (own, *rows),
    )


CXR_TABLES: dict[str, Callable[[Any, Dictionaries], Table]] = {
    "cxr_pointing": _pointing,
    "five_by_200": _five,
    "tags": _tags,
}
"""Name in ``parts.PARTS`` to what lays it out."""
