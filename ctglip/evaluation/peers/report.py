"""What the evaluation of a peer found, in the form and on the page of a model of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ctglip.encoder_cards import encoder_card
from ctglip.evaluation.encoded import effective_rank
from ctglip.evaluation.metrics import PairMetrics, expected_calibration_error, roc_band, roc_points
from ctglip.evaluation.page import evaluation_facts, pair_row, reliability_bins
from ctglip.evaluation.parts.protocol import Protocol, ProtocolResult
from ctglip.evaluation.peers.card import PeerCard
from ctglip.evaluation.peers.model import PeerVectors
from ctglip.evaluation.results import CalibrationResult, PartResult, Results, tables_of
from ctglip.evaluation.studies import StudyScores
from ctglip.inference.scoring import Dictionaries
from ctglip.pages import parts
from ctglip.pages import report as page
from ctglip.pages.parts import Table

_BAND_DRAWS = 200


@dataclass(frozen=True)
class PeerResult(PartResult):
    """Which peer it was.

    Attributes:
        model: name of its encoder; title: what it is called.
        weights, text: where its weights, and its text model's config and tokeniser, came from.
        size: voxels (x, y, z) that it saw of a scan.
        spacing_mm: their edges.
        licence: of code and weights.
        source: where its preprocessing and prompts were read.
        unconfirmed: what could not be read there.
        released: how many numbers of its own stand beside.
    """

    model: str
    title: str
    weights: str
    text: str
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    licence: str
    source: str
    unconfirmed: tuple[str, ...]
    released: int

    @classmethod
    def of(cls, card: PeerCard, weights: str, text: str, size: tuple[int, int, int], protocol: Protocol) -> PeerResult:
        """What the cards say of a peer."""
        name = card.encoder.name
        about = encoder_card(name)
        assert about.ct is not None
        released = sum(one.peer == name for one in protocol.published)
        unconfirmed = tuple(dict.fromkeys((*about.unconfirmed, *card.unconfirmed)))
        return cls(name, card.title, weights, text, size, about.ct.spacing_mm, about.licence, card.source, unconfirmed,
                   released)  # fmt: skip

    def tables(self, _: Dictionaries, /) -> tuple[Table, ...]:
        """What it is."""
        rows = [
            ("Weights", self.weights),
            ("Text model", self.text),
            ("Sees", f"{' x '.join(map(str, self.size))} voxels of {' x '.join(f'{e:g}' for e in self.spacing_mm)} mm"),
            ("Read in", self.source),
            ("Licence", self.licence),
        ]
        text = "Its own preprocessing and prompts, as far as they could be read."
        return (Table("peer", self.title, text, ("What", "Value"), tuple(rows), words=2),)


def peer_results(
    result: ProtocolResult,
    about: PeerResult,
    found: StudyScores,
    vectors: Mapping[str, PeerVectors],
    split: str,
    sources: tuple[str, str],
    dictionaries: Dictionaries,
    notes: Sequence[str],
    problems: tuple[str, ...],
    failures: tuple[str, ...],
) -> Results:
    """The results of a peer as those of a model of ours; its pairs are findings of whole studies.

    Args:
        result: of the protocol.
        about: the peer.
        found: scores and labels; vectors: of each study.
        split: which patients.
        sources: of labels and of thresholds, in words.
        dictionaries: display names.
        notes, problems, failures: see ``Results``.
    """
    rows = np.stack([vector for one in vectors.values() for vector in one.values()])
    questions = [found.known(one.finding) for one in result.findings]
    truth = np.concatenate([question.labels for question in questions])
    scores = np.concatenate([question.scores for question in questions])
    parts_of: dict[str, PartResult] = {"protocol": result, "peer": about}
    return Results(
        split=split,
        label_source=sources[0],
        threshold_source=sources[1],
        studies=len(vectors),
        patients=len(np.unique(found.patients)),
        crops=len(rows),
        macro_auroc=result.macro_auroc,
        macro_f1=result.macro_f1,
        pairs=tuple(
            PairMetrics(organ="study", abnormality=one.finding, auroc=one.auroc, auprc=one.auprc,
                        positives=one.positives, n=one.n, at=one.at)
            for one in result.findings
        ),
        left_out=tuple(result.left_out),
        controls=(),
        recognition=None,
        calibration=CalibrationResult(expected_calibration_error(truth, scores), None),
        effective_rank=effective_rank(rows),
        embedding_dim=rows.shape[-1],
        prompts=f"{about.title}'s own, read in {about.source}",
        parts=parts_of,
        failures=failures,
        notes=(*notes, *_notes_on(about)),
        problems=problems,
        tables=tables_of(parts_of, dictionaries),
        asked="findings of whole studies",
    )  # fmt: skip


def _notes_on(peer: PeerResult) -> list[str]:
    """What is not certain of a peer."""
    notes = [f"Unconfirmed of {peer.title}: {'; '.join(peer.unconfirmed)}."] if peer.unconfirmed else []
    if not peer.released:
        notes.append(f"No released number of {peer.title}'s own by this protocol is known here.")
    return notes


def peer_page(
    results: Results,
    result: ProtocolResult,
    about: PeerResult,
    found: StudyScores,
    weights: Float[np.ndarray, "draws patients"],
) -> page.EvaluationPage:
    """The page of one evaluation of a peer."""
    rows = []
    for pair in results.pairs:
        question = found.known(pair.abnormality)
        x, y = roc_points(question.labels, question.scores)
        band = roc_band(question.labels, question.scores, weights[1 : _BAND_DRAWS + 1, question.patients], x)
        rows.append(pair_row(pair, "Study", pair.abnormality, parts.Curve(x, y, *band)))
    questions = [found.known(one.finding) for one in result.findings]
    bins = reliability_bins(
        np.concatenate([question.labels for question in questions]),
        np.concatenate([question.scores for question in questions]),
    )
    return page.EvaluationPage(
        title=f"Zero-shot evaluation of {about.title}",
        split=results.split,
        label_source=results.label_source,
        auroc=results.macro_auroc,
        pairs=tuple(rows),
        facts=evaluation_facts(results, "Organs encoded" if results.crops > results.studies else "Scans encoded"),
        notes=results.notes,
        reliability=(page.Reliability("Its own temperature", bins, results.calibration.ece_learned),),
        tables=results.tables,
    )
