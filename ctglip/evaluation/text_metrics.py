"""How like two texts are in their words: BLEU-4 (sacrebleu), ROUGE-L (rouge-score), METEOR (NLTK with WordNet)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ctglip.evaluation.bootstrap import weighted_mean
from ctglip.resources import require

EXTRA = "reports"
WORDNET = Path("/usr/share/wordnet")
"""Where Debian's ``wordnet-base`` puts WordNet 3.0."""
_ORDER = 4


def text_statistics(texts: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, "n k"]:
    """What the metrics of texts are summed up from, a row for each text: matches and n-grams of BLEU-4, words of both,
    ROUGE-L, and METEOR (NaN without WordNet).

    Raises:
        MissingExtraError: without ``ctglip[reports]``.
    """
    bleu, rouge = _scorers()
    rows = []
    for text, reference in zip(texts, references, strict=True):
        one = bleu.corpus_score([text], [[reference]])
        like = rouge.score(reference, text)["rougeL"].fmeasure
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len, like, _meteor(text, reference)])
    return np.array(rows, np.float64).reshape(len(texts), 2 * _ORDER + 4)


def text_draws(
    statistics: Float[np.ndarray, "n k"], patients: Int[np.ndarray, " n"], weights: Float[np.ndarray, "draws patients"]
) -> dict[str, Float[np.ndarray, " draws"]]:
    """``bleu4`` of the corpus, mean ``rouge_l`` and ``meteor`` (where WordNet is there) in each draw of patients, 0 to
    1."""
    count = weights.shape[1]
    sums = np.stack([weights @ np.bincount(patients, column, count) for column in statistics[:, :-2].T], axis=1)
    bleu = np.array([_bleu(row) for row in sums])
    found = {"bleu4": bleu, "rouge_l": weighted_mean(statistics[:, -2], patients, weights)}
    if has_wordnet():
        found["meteor"] = weighted_mean(statistics[:, -1], patients, weights)
    return found


def has_wordnet() -> bool:
    """Whether METEOR can be computed: synonyms come from WordNet, and nothing else is called METEOR."""
    return (WORDNET / "index.noun").is_file()


def _bleu(sums: Float[np.ndarray, " k"]) -> float:
    counts = np.rint(sums).astype(int).tolist()
    found = _scorers()[0].compute_bleu(
        counts[:_ORDER], counts[_ORDER : 2 * _ORDER], *counts[2 * _ORDER :], smooth_method="exp", max_ngram_order=_ORDER
    )
    return found.score / 100


@lru_cache(maxsize=1)
def _scorers() -> tuple[Any, Any]:
    bleu = require("sacrebleu.metrics.bleu", EXTRA).BLEU(lowercase=True, max_ngram_order=_ORDER)
    rouge = require("rouge_score.rouge_scorer", EXTRA).RougeScorer(["rougeL"], use_stemmer=False)
    return bleu, rouge


@lru_cache(maxsize=1)
def _wordnet() -> Any:
    reader = require("nltk.corpus.reader.wordnet", EXTRA).WordNetCorpusReader

    class DebianWordNet(reader):
        """Debian's files, which lack the names of WordNet's source files; METEOR asks for synonyms alone."""

        def open(self, name: str) -> Any:
            """One of the files."""
            if name == "lexnames":
                return StringIO("".join(f"{number:02d}\t{number}\t1\n" for number in range(64)))
            return super().open(name)

        def map_wn(self, version: str = "wordnet") -> None:
            """No other version's numbers are asked for."""

    allowed = require("nltk.data", EXTRA).path
    if str(WORDNET) not in allowed:
        allowed.append(str(WORDNET))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DebianWordNet(str(WORDNET), None)


def _meteor(text: str, reference: str) -> float:
    if not has_wordnet():
        return float("nan")
    score = require("nltk.translate.meteor_score", EXTRA).single_meteor_score
    return float(score(reference.split(), text.split(), wordnet=_wordnet()))
