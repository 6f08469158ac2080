"""What an evaluation does otherwise on radiographs: which organs are asked about and how they are read, what is known
of radiographs as a whole, and which text belongs to which radiograph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from ctglip.data.organs import findings_by_study
from ctglip.evaluation.context import Context
from ctglip.evaluation.encoded import cache_folder
from ctglip.evaluation.labels import pairs_of
from ctglip.evaluation.retrieval import LEAST, Direction, Ranked, direction, ranked, same
from ctglip.inference.cxr_encoding import reading_of
from ctglip.inference.feature_cache import PLAIN, WHOLE_RADIOGRAPH, organ_features_of
from ctglip.store.tables import Store

SECTIONS = ("findings", "impression", "report")
"""Texts of a radiograph; ``report`` is both sections together."""


def cxr_texts(store: Store, study_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """What is written of some radiographs, by section; a section that a radiograph does not have is not there."""
    wanted, found = set(study_ids), {}
    for study_id, section, text in store.table("reports").iter_rows():
        text = " ".join((text or "").split())
        if study_id in wanted and section in SECTIONS[:2] and any(c.isalnum() for c in text):
            found.setdefault(study_id, {})[section] = text
    for texts in found.values():
        texts["report"] = " ".join(texts[name] for name in SECTIONS[:2] if name in texts)
    return found


def whole_radiographs(context: Context) -> tuple[list[str], Float[np.ndarray, "s e"]]:
    """The judged radiographs that could be read, and their vectors as a whole.

    Raises:
        ModelError: code ``no_whole_image``: the model has no head for them.
    """
    release, config = context.scorer.release, context.config
    reading_of(release.model, "whole")
    study_ids = list(dict.fromkeys(instance.study_id for instance in context.judged.instances))
    view = PLAIN if release.model.settings.grounding == "none" else WHOLE_RADIOGRAPH
    folder = cache_folder(context.store, config)
    found = organ_features_of(
        context.store, release, study_ids, ["body"], folder=folder, view=view, batch=config.batch,
        threads=config.threads, progress=context.progress,
    )  # fmt: skip
    return [instance.study_id for instance in found.instances], found.embeddings.diagnosis


def cxr_retrieval(context: Context) -> list[Direction]:
    """Radiographs and their findings, impressions and reports, both ways. Radiographs with the same text are hits of
    each other.

    Raises:
        ModelError: code ``no_whole_image``.
    """
    studies, radiographs = whole_radiographs(context)
    texts = cxr_texts(context.store, studies)
    patient = {p.study_id: int(n) for p, n in zip(context.judged.instances, context.judged.patients, strict=True)}
    context.remember([text for of_study in texts.values() for text in of_study.values()])
    found: list[Direction | None] = []
    for section in SECTIONS:
        rows = [row for row, study in enumerate(studies) if section in texts.get(study, {})]
        if len(rows) < LEAST:
            continue
        said = [texts[studies[row]][section] for row in rows]
        similarity = radiographs[rows] @ context.scorer.of_whole().directions([(text,) for text in said]).T
        hit, patients = same(said), np.array([patient[studies[row]] for row in rows])
        both: Sequence[tuple[str, Ranked]] = (
            (f"radiograph to {section}", ranked(similarity, hit, patients)),
            (f"{section} to radiograph", ranked(similarity.T, hit, patients)),
        )
        found += [direction(name, [one], context.weights) for name, one in both]
    return [one for one in found if one is not None]


def cxr_labels(context: Context, names: Sequence[str], studies: Sequence[str]) -> Mapping[str, Float[np.ndarray, " s"]]:
    """What radiographs show as a whole: 1, 0 or NaN for each abnormality and radiograph.

    From the columns of the label table that are about it, of whatever organ; else from what reports affirm (a report
    that is silent says no).
    """
    dictionaries, table = context.scorer.dictionaries, context.table
    out = {name: np.full(len(studies), np.nan) for name in names}
    kinds = {name: {name, *dictionaries.abnormalities.descendants(name)} for name in names}
    if table is not None:
        pairs, values = pairs_of(table, dictionaries.abnormalities), table.of_studies(studies)
        for name in names:
            wanted = [number for number, pair in enumerate(pairs) if pair is not None and pair[1] in kinds[name]]
            out[name] = np.fmax.reduce(values[:, wanted], axis=1, initial=np.nan)
        return out
    findings = findings_by_study(context.store, set(studies))
    for name in names:
        for instance, study in enumerate(studies):
            if study in findings:
                rows = findings[study]
                out[name][instance] = any(row.abnormality in kinds[name] and row.status == "affirmed" for row in rows)
    return out
