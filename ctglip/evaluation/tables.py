"""The parts of an evaluation as tables of its report: one function a part, one line in the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ctglip.evaluation.bootstrap import Interval
from ctglip.evaluation.cxr_tables import CXR_TABLES, published_probe
from ctglip.evaluation.diagnostics import Swap, Truncation
from ctglip.evaluation.paraphrases import PromptVariance
from ctglip.evaluation.pointing import NEAR_MM, Pointed
from ctglip.evaluation.protocol import ProtocolResult
from ctglip.evaluation.results import ControlResult
from ctglip.evaluation.subgroups import Subgroup
from ctglip.inference.scoring import Dictionaries
from ctglip.pages.parts import Score, Table
from ctglip.pages.wording import DASH, interval, number, share

_WORDINGS = 12


def tables_of(parts: Mapping[str, Any], dictionaries: Dictionaries) -> tuple[Table, ...]:
    """The tables of the parts that were done."""
    changed = _changed(parts)
    found = [make(parts[name], dictionaries) for name, make in TABLES.items() if parts.get(name)]
    beside = [published_probe(parts)] if parts.get("probe") and parts.get("protocol") else []
    return tuple(table for table in (changed, *found, *beside) if table is not None)


def _cells(found: Interval) -> tuple[str, str]:
    return number(found.value), interval(Score(found.value, found.low, found.high)) or DASH


def _signed(found: Interval) -> str:
    if found.value is None:
        return DASH
    ends = "" if found.low is None else f" ({number(found.low)} to {number(found.high)})"
    return f"{'+' if found.value > 0 else ''}{number(found.value)}{ends}"


def _changed(parts: Mapping[str, Any]) -> Table | None:
    """Probe and counterfactuals side by side."""
    found: list[tuple[ControlResult, str]] = []
    if parts.get("probe"):
        found.append((parts["probe"], ""))
    if parts.get("erasure"):
        found.append((parts["erasure"], ""))
    if parts.get("swap"):
        swap: Swap = parts["swap"]
        sides = f" {share(swap.turned.value)} of {swap.n} organs that have a side are then named for the other side."
        found.append((swap.answers, sides if swap.n else ""))
    if parts.get("truncation"):
        cut: Truncation = parts["truncation"]
        flipped = "" if cut.flipped is None else f" {share(cut.flipped)} of the yes or no answers turn over."
        found.append((cut.answers, flipped))
    rows = tuple(
        (one.name, one.explanation + more, *_cells(one.macro_auroc), _signed(one.difference)) for one, more in found
    )
    if not rows:
        return None
    return Table(
        "changed",
        "The same questions, asked otherwise",
        "Zero-shot minus the other on the same patients: what a probe adds, and what is lost when the organ is erased, "
        "mirrored or cut off.",
        ("What", "How", "Macro AUROC", "95 % interval", "Zero-shot minus this"),
        rows,
        words=2,
    )


def _subgroups(groups: tuple[Subgroup, ...], _: Dictionaries) -> Table:
    return Table(
        "subgroups",
        "Groups of patients",
        "Macro AUROC within each group, and the difference from everybody else over the same pairs.",
        ("Group", "By", "Patients", "Pairs", "Macro AUROC", "95 % interval", "Minus the rest"),
        tuple(
            (g.group, g.by, f"{g.patients:,}", f"{g.pairs:,}", *_cells(g.macro_auroc), _signed(g.difference))
            for g in groups
        ),
        words=2,
    )


def _prompts(found: PromptVariance, dictionaries: Dictionaries) -> Table:
    return Table(
        "wordings",
        "Other words",
        f"Asked with one positive and one negative wording drawn at random, the macro AUROC is {number(found.mean)} "
        f"({number(found.low)} to {number(found.high)} over {found.draws} draws); with all wordings together it is "
        f"{number(found.ensemble)}. The pairs that depend most on their words:",
        ("Organ and abnormality", "All wordings", "Single, mean", "Worst", "Best", "Wordings"),
        tuple(
            (
                _shown(p.pair, dictionaries),
                *(number(value) for value in (p.ensemble, p.mean, p.low, p.high)),
                f"{p.combinations}",
            )
            for p in found.pairs[:_WORDINGS]
        ),
    )  # fmt: skip


def _shown(pair: str, dictionaries: Dictionaries) -> str:
    organ, name = pair.split(":")
    return f"{dictionaries.organs[organ].display} · {dictionaries.abnormalities[name].display}"


def _pointing(found: tuple[Pointed, ...], dictionaries: Dictionaries) -> Table:
    return Table(
        "pointing",
        "Does it look at the lesion?",
        f"How often the map of an answer peaks inside a lesion, and within {NEAR_MM:g} mm of one, beside a random "
        "voxel of the organ. 'All' leaves out lesions that fill the organ.",
        ("Abnormality", "Organs", "Inside", "95 % interval", "By chance", "Near", "95 % interval", "By chance"),
        tuple(
            (
                "All" if p.abnormality == "all" else dictionaries.abnormalities[p.abnormality].display,
                f"{p.lesions:,}", *_cells(p.inside), number(p.inside_chance), *_cells(p.near), number(p.near_chance),
            )
            for p in found
        ),
    )  # fmt: skip


def _protocol(found: ProtocolResult, _: Dictionaries) -> Table:
    left = f" Not judged: {', '.join(found.left_out)}." if found.left_out else ""
    more = any(p.get("accuracy") is not None for p in found.published)  # F1 and accuracy, where others tell them

    def row(who: str, auroc: tuple[str, str], f1: float | None, accuracy: float | None, what: str) -> tuple[str, ...]:
        return (who, *auroc, *((number(f1), number(accuracy)) if more else ()), what)

    on = f"{len(found.findings)} findings, this store's patients"
    own = [row("This model", _cells(found.macro_auroc), found.macro_f1, found.accuracy, on)]
    others = [
        row(str(p["model"]), (number(p["macro_auroc"]), DASH), p.get("macro_f1"), p.get("accuracy"), _source(p))
        for p in found.published
    ]
    each = [
        row(
            f"This model: {f.finding}", _cells(f.auroc), f.at.f1 if f.at else None, f.at.accuracy if f.at else None,
            f"{f.positives:,} of {f.n:,} studies",
        )
        for f in found.findings
    ]  # fmt: skip
    return Table(
        "protocol",
        found.name,
        "Whole studies, judged as the public protocol does. The published numbers were measured on other patients or "
        f"other copies of the data: read them beside yours, not against them.{left}",
        ("Model", "AUROC", "95 % interval", *(("F1", "Accuracy") if more else ()), "On what"),
        (*own, *others, *each),
    )


def _source(published: dict[str, Any]) -> str:
    return "; ".join(str(published[key]) for key in ("source", "note") if published[key])


TABLES: dict[str, Callable[[Any, Dictionaries], Table]] = {
    "subgroups": _subgroups,
    "prompts": _prompts,
    "pointing": _pointing,
    "protocol": _protocol,
    **CXR_TABLES,
}
"""Name in ``parts.PARTS`` to what lays it out; retrieval and the map have plots of their own."""
