"""``evaluate --model``: a peer and a store that was made for it become ``results.json``, ``scores.parquet`` and
``report.html``, as a model of ours does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from ctglip.data.organs import studies_of
from ctglip.encoder_cards import encoder_card
from ctglip.errors import CTGLIPError, ModelError, StoreError
from ctglip.evaluation.bootstrap import draw_patients
from ctglip.evaluation.encoded import Stage, listed_studies
from ctglip.evaluation.labels import check_studies
from ctglip.evaluation.parts.protocol import (
    Protocol,
    ProtocolFinding,
    ProtocolResult,
    finding_labels,
    load_protocol,
    protocol_result,
    read_protocol_labels,
)
from ctglip.evaluation.peers.card import PeerCard, load_peer
from ctglip.evaluation.peers.model import WHOLE, Peer, PeerVectors, load_peer_model
from ctglip.evaluation.peers.report import PeerResult, peer_page, peer_results
from ctglip.evaluation.peers.settings import PeerEvaluateConfig
from ctglip.evaluation.results import Results
from ctglip.evaluation.run import label_source, threshold_source
from ctglip.evaluation.studies import StudyScores
from ctglip.files import atomic_path, write_json, write_text
from ctglip.inference.scoring import Dictionaries
from ctglip.labels import LabelTable
from ctglip.models.device import resolve_device
from ctglip.pages.report import render
from ctglip.store.tables import Store
from ctglip.types import Progress
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from ctglip.vocabulary.prompts import negative_prompts, positive_prompts

LoadPeer = Callable[[PeerCard, str, str | None], Peer]


@dataclass(frozen=True)
class PeerContext:
    """One evaluation of a peer under way; a ``StudyContext``.

    Attributes:
        peer: the peer.
        store, table, dictionaries, weights, min_positives: see ``StudyContext``.
        protocol: by which it is evaluated.
        notes: what the reader must bear in mind.
        failures: studies that could not be read.
    """

    peer: Peer
    store: Store
    table: LabelTable | None
    dictionaries: Dictionaries
    weights: Float[np.ndarray, "draws patients"]
    min_positives: int
    protocol: Protocol
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def evaluate_peer(
    model: str,
    weights: str,
    store: Path,
    out: Path,
    text_source: str | None = None,
    split: str = "test",
    labels: Path | None = None,
    config: PeerEvaluateConfig | None = None,
    progress: Progress | None = None,
    stage: Stage | None = None,
    load: LoadPeer = load_peer_model,
) -> Results:
    """Evaluate a peer on one split of a store, with its own preprocessing and prompts, by a public protocol.

    Args:
        model: name of a peer, or a card of one's own (``.yaml``).
        weights: its file, a folder with it, or a name on the hub of which there is a copy.
        store: made by ``ctglip preprocess --for`` its encoder.
        out: folder for ``results.json``, ``scores.parquet`` and ``report.html``.
        text_source: folder, or name on the hub, of its text model's config and tokeniser; None: the card's.
        split: which patients.
        labels: label table; without it the findings of the store's reports are the labels.
        config: how it is done.
        progress, stage: called with (done, of) as a stage goes on, and with the name of each that begins.
        load: makes the peer of its card, the weights and the source of its text model.

    Raises:
        ConfigError: no such peer or protocol.
        ModelError: weights that are of another model, broken or absent; a store of another recipe or modality.
        StoreError: no store, or an empty split.
        CohortError: faults of the label table, or studies that the store does not have.
        CTGLIPError: no finding of the protocol has enough positives and negatives.
    """
    config, card, opened = config or PeerEvaluateConfig(), load_peer(model), Store.open(store)
    begin = stage or (lambda _: None)
    protocol = load_protocol(config.protocol or card.protocol)
    check_made_for(opened, card)
    dictionaries = _dictionaries()
    table = None if labels is None else read_protocol_labels(labels, dictionaries, protocol, config.ignore)
    problems = () if table is None else check_studies(table, opened, split)
    study_ids = listed_studies(opened, split, Path(config.studies)) if config.studies else studies_of(opened, split)
    begin("Weights")
    peer = load(card, weights, text_source).to(resolve_device(config.device))
    patients, patient_of = _patients(opened, study_ids)
    draws = draw_patients(len(patients), config.draws, np.random.default_rng(config.seed))
    context = PeerContext(peer, opened, table, dictionaries, draws, config.min_positives, protocol)
    vectors, found, result, validated = _scored(context, study_ids, patient_of, split, begin, progress)
    about = PeerResult.of(card, weights, text_source or card.text.source, peer.size, protocol)
    sources = label_source(labels), threshold_source(protocol.threshold, validated)
    results = peer_results(
        result, about, found, vectors, split, sources, dictionaries, context.notes, problems, tuple(context.failures)
    )
    begin("Tables and page")
    write_json(out / "results.json", results.to_json())
    with atomic_path(out / "scores.parquet") as temporary:
        _score_table(context, list(vectors), result, found).write_parquet(temporary)
    write_text(out / "report.html", render(peer_page(results, result, about, found, context.weights)))
    return results


def _dictionaries() -> Dictionaries:
    """The shipped ones: what a peer is asked does not hang on the store's."""
    organs = load_organs()
    return Dictionaries(organs, load_abnormalities(organs=organs))


def _scored(
    context: PeerContext,
    study_ids: Sequence[str],
    patient_of: Mapping[str, int],
    split: str,
    begin: Stage,
    progress: Progress | None,
) -> tuple[dict[str, PeerVectors], StudyScores, ProtocolResult, bool]:
    """Vectors of the studies, their scores, what the protocol makes of them, and whether thresholds are of ``val``."""
    protocol = context.protocol
    begin("Prompts")
    axes = prompt_axes(context.peer, protocol, context.dictionaries)
    begin(f"Encoding the split {split}")
    vectors = encode_studies(context, study_ids, progress)
    found = _scores(context, axes, vectors, patient_of)
    validation = None
    if protocol.threshold == "validation_f1" and split != "val":
        validation = _validation(context, axes, begin, progress)
    begin("Intervals")
    result = protocol_result(context, protocol, found, validation, f"{context.peer.card.title}, here")
    if result is None:
        raise CTGLIPError(
            f"{protocol.name}: none of its findings has {context.min_positives} positives and negatives in the split "
            f"{split!r}.",
            code="nothing_to_evaluate",
            fix="Give more patients or labels, another protocol (--set protocol=NAME), or lower min_positives.",
        )
    return vectors, found, result, validation is not None


def check_made_for(store: Store, card: PeerCard) -> None:
    """The store was made as the peer's own preprocessing would.

    Raises:
        ModelError: code ``other_modality`` or ``other_recipe``.
    """
    name = card.encoder.name
    if store.info.modality != "ct":
        raise ModelError(
            f"{card.title} reads scans, and {store.path} is a store of radiographs.",
            code="other_modality",
            fix="Name a store of scans.",
        )
    expected = encoder_card(name).preprocess()["ct"]
    usual = {"grid": "smooth"}
    made = {key: store.info.recipe.get(key, usual.get(key)) for key in expected}
    if made == expected:
        return
    differs = ", ".join(f"{key} {made[key]} for {expected[key]}" for key in expected if made[key] != expected[key])
    masks = "" if card.organs is not None else " --set ct.segmentation=null"
    raise ModelError(
        f"{store.path} was not made by {card.title}'s own preprocessing: {differs}.",
        code="other_recipe",
        fix=f"Make its store from the cohort that this one was made of: ctglip preprocess COHORT NEW_STORE --for "
        f"{name}{masks}",
    )


def prompt_axes(peer: Peer, protocol: Protocol, dictionaries: Dictionaries) -> Mapping[str, Float[np.ndarray, "2 e"]]:
    """The directions of the positive and of the negative prompts of each finding."""
    names = list(protocol.findings)
    sets = [side for name in names for side in prompts_of(peer.card, name, protocol.findings[name], dictionaries)]
    directions = peer.directions(sets)
    return {name: directions[2 * number : 2 * number + 2] for number, name in enumerate(names)}


def prompts_of(
    card: PeerCard, name: str, finding: ProtocolFinding, dictionaries: Dictionaries
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The positive and the negative prompts that a peer is asked a finding in (``PeerPrompts``)."""
    prompts = card.prompts
    if name in prompts.words:
        return prompts.words[name].positive, prompts.words[name].negative
    if prompts.positive:
        plain = name.replace("_", " ")
        values = {"Name": plain[:1].upper() + plain[1:], "name": plain[:1].lower() + plain[1:]}
        return (prompts.positive.format(**values),), (prompts.negative.format(**values),)
    if finding.positive:
        return finding.positive, finding.negative
    organ, abnormality = dictionaries.organs[finding.organs[0]], dictionaries.abnormalities[finding.abnormality]
    return positive_prompts(abnormality, organ), negative_prompts(abnormality, organ)


def encode_studies(
    context: PeerContext, study_ids: Sequence[str], progress: Progress | None = None
) -> dict[str, PeerVectors]:
    """The vectors of each study that can be read; others are entered in ``context.failures``."""
    found: dict[str, PeerVectors] = {}
    for done, study_id in enumerate(study_ids, start=1):
        try:
            study = context.store.study(study_id)
            labels = study.organs() if context.peer.organs else None
            found[study_id] = context.peer.vectors(study.image(), labels, context.dictionaries.organs)
        except StoreError:
            context.failures.append(study_id)
        if progress:
            progress(done, len(study_ids))
    if context.peer.organs and not any(found.values()):
        raise StoreError(
            f"{context.peer.card.title} reads {', '.join(context.peer.organs)} by their masks, and no study has any.",
            code="no_masks",
            fix="Preprocess into a new store with masks (the cohort's column masks).",
        )
    return found


def _patients(store: Store, study_ids: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Patients, and the number of each study's."""
    patient = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    names = sorted({patient[study] for study in study_ids})
    numbers = {name: number for number, name in enumerate(names)}
    return names, {study: numbers[patient[study]] for study in study_ids}


def _scores(
    context: PeerContext,
    axes: Mapping[str, Float[np.ndarray, "2 e"]],
    vectors: Mapping[str, PeerVectors],
    patient_of: Mapping[str, int],
) -> StudyScores:
    """Probabilities: the softmax over a positive and a negative prompt; of organs the highest of a finding's."""
    peer, protocol = context.peer, context.protocol
    scores = {}
    for name, finding in protocol.findings.items():
        sides, regions = axes[name], (WHOLE,) if not peer.organs else finding.organs
        rows = [[(one[region] @ sides.T) for region in regions if region in one] for one in vectors.values()]
        differences = [max((float(a - b) for a, b in row), default=np.nan) for row in rows]
        scores[name] = 1.0 / (1.0 + np.exp(-peer.scale * np.array(differences, dtype=np.float64)))
    labels = finding_labels(context, protocol, list(vectors))
    return StudyScores(np.array([patient_of[study] for study in vectors], dtype=np.int64), labels, scores)


def _validation(
    context: PeerContext, axes: Mapping[str, Float[np.ndarray, "2 e"]], begin: Stage, progress: Progress | None
) -> StudyScores | None:
    """Scores of the split val, where thresholds are chosen; None where the store has none."""
    try:
        study_ids = studies_of(context.store, "val")
    except StoreError:
        return None
    begin("Encoding the split val")
    vectors = encode_studies(replace(context, failures=[]), study_ids, progress)  # those that count are of the split
    return _scores(context, axes, vectors, _patients(context.store, study_ids)[1])


def _score_table(
    context: PeerContext, studies: Sequence[str], result: ProtocolResult, found: StudyScores
) -> pl.DataFrame:
    """One row for each answer: study_id, patient, finding, label, probability."""
    rows = []
    for one in result.findings:
        labels, scores = found.labels[one.finding], found.scores[one.finding]
        known = np.isfinite(labels) & np.isfinite(scores)
        rows.append(
            pl.DataFrame(
                {
                    "study_id": [study for study, keep in zip(studies, known, strict=True) if keep],
                    "patient": found.patients[known],
                    "finding": one.finding,
                    "abnormality": context.protocol.findings[one.finding].abnormality,
                    "label": labels[known].astype(np.int64),
                    "probability": scores[known],
                }
            )
        )
    return pl.concat(rows)
