"""Results as the evaluation page's values."""

from __future__ import annotations

import numpy as np

from ctglip.data.samples import OrganInstance
from ctglip.errors import CTGLIPError
from ctglip.evaluation.context import Context
from ctglip.evaluation.metrics import PairMetrics, roc_band, roc_points
from ctglip.evaluation.parts.embedding_map import EmbeddingMap
from ctglip.evaluation.parts.retrieval import RetrievalResult
from ctglip.evaluation.results import Results
from ctglip.evaluation.zero_shot import Recognition
from ctglip.inference.scoring import Calibration, Pair
from ctglip.modality import MODALITIES
from ctglip.pages import parts
from ctglip.pages import report as page
from ctglip.types import Interval, OrganRow

_BINS = 8
_BAND_DRAWS = 200
_EXAMPLES = 4


def evaluation_page(results: Results, context: Context) -> page.EvaluationPage:
    """The page of one evaluation: what was found, and the context it was found in for curves and pictures."""
    retrieval, organs = results.parts.get("retrieval"), results.parts.get("map")
    best, worst = _best_and_worst(context) if context.config.pictures else ((), ())
    controls = tuple(parts.Control(c.name, c.explanation, c.macro_auroc) for c in results.controls)
    return page.EvaluationPage(
        title="Zero-shot evaluation",
        split=results.split,
        label_source=results.label_source,
        auroc=results.macro_auroc,
        pairs=tuple(_row(pair, context) for pair in results.pairs),
        facts=evaluation_facts(results),
        controls=controls,
        recognition=_recognition(results.recognition, context),
        notes=(*(_differences(results)), *results.notes),
        reliability=_reliability(context, results),
        retrieval=retrieval.directions if isinstance(retrieval, RetrievalResult) else (),
        embeddings=tuple(
            page.EmbeddedOrgan(point.x, point.y, context.scorer.dictionaries.organs[point.organ].display)
            for point in (organs.organs if isinstance(organs, EmbeddingMap) else ())
        ),
        tables=results.tables,
        best=best,
        worst=worst,
    )


def _recognition(found: Recognition | None, context: Context) -> parts.OrganRecognition | None:
    if found is None:
        return None
    sides = "" if found.sides is None else f" Of paired organs, {found.sides:.1%} were given the right side."
    hints = MODALITIES[context.release.modality].organ_hints
    return parts.OrganRecognition(
        top1=found.top1,
        macro=found.macro,
        n=found.n,
        organs=found.names,
        chance=1 / found.names,
        note=f"{hints} much of it away.{sides}",
    )


def _row(pair: PairMetrics, context: Context) -> page.PairRow:
    dictionaries, known = context.scorer.dictionaries, context.labels[pair.organ, pair.abnormality]
    scores = context.split.differences[pair.organ, pair.abnormality]
    x, y = roc_points(known.labels, scores)
    weights = context.weights[1 : _BAND_DRAWS + 1, context.split.patients[known.rows]]
    low, high = roc_band(known.labels, scores, weights, x)
    return pair_row(
        pair,
        dictionaries.organs[pair.organ].display,
        dictionaries.abnormalities[pair.abnormality].display,
        parts.Curve(x, y, low, high),
    )


def pair_row(pair: PairMetrics, organ: str, abnormality: str, curve: parts.Curve) -> page.PairRow:
    """The numbers of one pair as a page shows them, under the names that a person reads."""
    at = pair.at
    return page.PairRow(
        organ=organ,
        abnormality=abnormality,
        auroc=pair.auroc,
        positives=pair.positives,
        n=pair.n,
        auprc=pair.auprc,
        f1=at.f1 if at else None,
        sensitivity=at.sensitivity if at else None,
        specificity=at.specificity if at else None,
        threshold=at.threshold if at else None,
        roc=curve,
    )


def evaluation_facts(results: Results, encoded: str = "Organs encoded") -> tuple[parts.Fact, ...]:
    """What there is to know of an evaluation beside its scores. ``encoded``: what ``crops`` counts."""
    calibration = results.calibration
    f1 = "unknown" if results.macro_f1 is None else f"{results.macro_f1:.3f}"
    facts = [
        parts.Fact("Studies", str(results.studies), f"{results.patients} patients"),
        parts.Fact(encoded, str(results.crops), "each once"),
        parts.Fact("Thresholds", results.threshold_source),
        parts.Fact("Macro F1", f1, "at those thresholds"),
        parts.Fact("Effective rank", f"{results.effective_rank:.1f}", f"of {results.embedding_dim} dimensions"),
        parts.Fact("Calibration error", f"{calibration.ece_learned:.3f}", "with the learned temperature"),
    ]
    if calibration.ece_fitted is not None:
        facts.append(parts.Fact("Calibration error", f"{calibration.ece_fitted:.3f}", "fitted on the validation split"))
    if results.failures:
        facts.append(parts.Fact("Studies that could not be read", str(len(results.failures))))
    return tuple(facts)


def _differences(results: Results) -> tuple[str, ...]:
    out = []
    for control in results.controls:
        d = control.difference
        if d.value is not None and d.low is not None and d.high is not None:
            out.append(
                f"The model is {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] macro AUROC above the control "
                f"'{control.name}' on the same patients."
            )
    return tuple(out)


def _reliability(context: Context, results: Results) -> tuple[page.Reliability, ...]:
    calibration = context.scorer.calibration
    truth = np.concatenate([context.labels[pair].labels for pair in sorted(context.labels)])
    differences = np.concatenate([context.split.differences[pair] for pair in sorted(context.labels)])
    learned = Calibration(scale=calibration.learned_scale).probabilities(differences)
    found = [page.Reliability("Learned temperature", reliability_bins(truth, learned), results.calibration.ece_learned)]
    if calibration.fitted_on:
        fitted, ece = calibration.probabilities(differences), results.calibration.ece_fitted
        found.append(page.Reliability("Fitted on the validation split", reliability_bins(truth, fitted), ece))
    return tuple(found)


def reliability_bins(truth: np.ndarray, probabilities: np.ndarray) -> tuple[parts.ReliabilityBin, ...]:
    """Shares of positives in equally wide bins of probabilities, empty bins left out."""
    bin_of = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    found = []
    for number in range(_BINS):
        rows = bin_of == number
        n = int(rows.sum())
        if n:
            share = float(truth[rows].mean())
            half = 1.96 * float(np.sqrt(share * (1 - share) / n))
            score = Interval(share, max(share - half, 0.0), min(share + half, 1.0))
            found.append(parts.ReliabilityBin(float(probabilities[rows].mean()), score, n))
    return tuple(found)


def _best_and_worst(context: Context) -> tuple[tuple[page.ExampleAnswer, ...], tuple[page.ExampleAnswer, ...]]:
    """Up to four positives found with the highest probability, and four answers that were furthest from the truth, each
    of another (organ, abnormality)."""
    found: list[tuple[float, Pair, int]] = []
    missed: list[tuple[float, Pair, int]] = []
    for pair, known in context.labels.items():
        scores = context.scores[pair]
        surest = int(np.where(known.labels == 1, scores, -1.0).argmax())
        found.append((1 - float(scores[surest]), pair, surest))
        furthest = int(np.abs(known.labels - scores).argmax())
        missed.append((-float(abs(known.labels[furthest] - scores[furthest])), pair, furthest))
    best, worst = (
        tuple(_example(context, pair, number) for _, pair, number in sorted(several)[:_EXAMPLES])
        for several in (found, missed)
    )
    return best, worst


def _example(context: Context, pair: Pair, number: int) -> page.ExampleAnswer:
    dictionaries, known = context.scorer.dictionaries, context.labels[pair]
    instance = context.split.instances[int(known.rows[number])]
    organ, abnormality = dictionaries.organs[pair[0]], dictionaries.abnormalities[pair[1]]
    return page.ExampleAnswer(
        title=f"{abnormality.display}, {organ.display}",
        truth=bool(known.labels[number]),
        probability=float(context.scores[pair][number]),
        picture=_picture(context, instance),
        note=_note(instance),
    )


def _note(instance: OrganInstance) -> str:
    row = instance.row
    if not isinstance(row, OrganRow):
        return f"Study {instance.study_id}."
    return f"Study {instance.study_id}, {row.volume_ml:.0f} ml{', cut off' if row.touches_border else ''}."


def _picture(context: Context, instance: OrganInstance) -> parts.Picture | None:
    """The image with the organ that was read."""
    modality, organs = MODALITIES[context.release.modality], context.scorer.dictionaries.organs
    try:
        study = context.store.study(instance.study_id)
        image, labels = study.image(), study.organs()
    except CTGLIPError:
        return None
    subject = f"study {instance.study_id}"
    return modality.picture(image, study.spacing_mm, labels, instance.row, organs, subject)
