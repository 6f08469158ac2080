"""How good written passages are: facts by the parser, words by BLEU-4, ROUGE-L and METEOR, in draws of patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from ctglip.evaluation.text_metrics import text_draws, text_statistics
from ctglip.reports.facts import FactReader, ReportFact, compare_facts
from ctglip.reports.parser import ReportParser
from ctglip.tasks.passages import Passages
from ctglip.tasks.results import BootstrapPatients
from ctglip.types import Report

Draws = Mapping[str, Float[np.ndarray, " draws"]]
"""Each metric on the test split, then in each draw of its patients."""


@dataclass(frozen=True)
class PassageJudge:
    """Compares passages with what the reports of the same studies say.

    Attributes:
        passages: of the reports.
        parser: reads what is written.
        reader: over the organs that are written about.
    """

    passages: Passages
    parser: ReportParser
    reader: FactReader

    @staticmethod
    def of(passages: Passages, parser: ReportParser) -> PassageJudge:
        """A judge over the organs of some passages."""
        lexicon = parser.lexicon
        return PassageJudge(passages, parser, FactReader(passages.organs, lexicon.organs, lexicon.abnormalities))

    def facts(self, texts: Sequence[str]) -> frozenset[ReportFact]:
        """What passages of one report state, each read by itself."""
        found = (row for text in texts if text for row in self.parser.parse(Report(findings=text)))
        return self.reader.facts(found)

    def counts(self, table: pl.DataFrame, study_ids: Sequence[str]) -> Float[np.ndarray, "s 6"]:
        """``FactCounts`` of each study.

        Args:
            table: study_id, organ, text of passages.
        """
        written = written_by_study(table)
        return np.array(
            [
                astuple(compare_facts(self.facts(written.get(name, ())), self.passages.facts.get(name, frozenset())))
                for name in study_ids
            ],
            np.float64,
        ).reshape(len(study_ids), 6)

    def draws(self, table: pl.DataFrame, patients: BootstrapPatients) -> Draws:
        """All metrics of some passages; words are compared with the reports' own."""
        counts = self.counts(table, patients.study_ids)
        number = patients.weights.shape[1]
        sums = np.stack([patients.weights @ np.bincount(patients.numbers, column, number) for column in counts.T])
        stated, true, right, affirmed, there, both = sums
        written = written_by_study(table)
        texts = [" ".join(filter(None, written.get(name, ()))) for name in patients.study_ids]
        references = [self.passages.references.get(name, "") for name in patients.study_ids]
        words = text_draws(text_statistics(texts, references), patients.numbers, patients.weights)
        return {
            "clinical_f1": _share(2 * right, stated + true),
            "clinical_precision": _share(right, stated),
            "clinical_recall": _share(right, true),
            "affirmed_f1": _share(2 * both, affirmed + there),
            "hallucination_rate": _share(affirmed - both, affirmed),
            "omission_rate": _share(there - both, there),
            **words,
        }


def clinical_f1(counts: Float[np.ndarray, "s 6"]) -> float:
    """F1 over all facts of some studies."""
    stated, true, right = counts[:, :3].sum(0)
    return float(2 * right / max(stated + true, 1))


def written_by_study(table: pl.DataFrame) -> dict[str, list[str]]:
    """The passages of each study of a table, in the table's order."""
    found: dict[str, list[str]] = {}
    for name, text in table.select("study_id", "text").iter_rows():
        found.setdefault(name, []).append(text)
    return found


def _share(part: Float[np.ndarray, " d"], total: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    return np.divide(part, total, out=np.full(len(part), np.nan), where=total > 0)
