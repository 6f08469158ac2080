"""What written passages are measured against, on the same studies: templates and the passages of other patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from ctglip.evaluation.metrics import best_f1_threshold
from ctglip.inference.feature_cache import organ_features_of
from ctglip.inference.scoring import Dictionaries, Pair, Scorer
from ctglip.models.release import Release
from ctglip.store.tables import Store
from ctglip.tasks.inputs import cached_features
from ctglip.tasks.passages import Passages
from ctglip.tasks.report_settings import Baseline
from ctglip.tasks.settings import ReportConfig
from ctglip.tasks.studies import TEST, TRAIN, VAL, Studies
from ctglip.vocabulary.prompts import normal_prompts, positive_prompts

_EVEN = 0.5


@dataclass(frozen=True)
class PassageBaselines:
    """Baselines of one frozen model.

    Attributes:
        passages: of the reports.
        studies: with their splits.
        training: rows of the training studies that are used.
        study, organ: row and organ of each organ that can be read.
        raw: the model's features of each.
        dictionaries: their words.
        least: training passages that an abnormality needs.
        scorer, diagnosis: the model's answers, and what they are read from; None: it has none.
    """

    passages: Passages
    studies: Studies
    training: Int[np.ndarray, " n"]
    study: Int[np.ndarray, " m"]
    organ: np.ndarray
    raw: Float[np.ndarray, "m d"]
    dictionaries: Dictionaries
    least: int
    scorer: Scorer | None = None
    diagnosis: Float[np.ndarray, "m e"] | None = None

    def written(self, name: Baseline) -> pl.DataFrame | None:
        """study_id, organ, text of the test studies' organs; None where it cannot be had."""
        makers: Mapping[Baseline, Callable[[], dict[int, str] | None]] = {
            "normal": self._normal,
            "neighbour": self._neighbours,
            "classifier": self._classified,
            "zero_shot": self._answered,
        }
        texts = makers[name]()
        if texts is None:
            return None
        order = {organ: number for number, organ in enumerate(self.passages.organs)}
        rows = sorted(texts, key=lambda n: (self.study[n], order[self.organ[n]]))
        return pl.DataFrame(
            {
                "study_id": [self.studies.study_ids[self.study[n]] for n in rows],
                "organ": [str(self.organ[n]) for n in rows],
                "text": [texts[n] for n in rows],
            },
            schema={"study_id": pl.String, "organ": pl.String, "text": pl.String},
        )

    @cached_property
    def _features(self) -> Float[np.ndarray, "m d"]:
        """Standardised within each organ by the training studies."""
        features = self.raw.astype(np.float64)
        for organ in self.passages.organs:
            rows = self.organ == organ
            known = features[rows & np.isin(self.study, self.training)]
            if len(known):
                features[rows] = (features[rows] - known.mean(0)) / np.maximum(known.std(0), 1e-4)
        return features

    def _rows(self, split: str) -> Bool[np.ndarray, " m"]:
        return np.isin(self.study, self.training if split == TRAIN else self.studies.of(split))

    def _normal_text(self, organ: str) -> str:
        return normal_prompts(self.dictionaries.organs[organ])[0]

    def _normal(self) -> dict[int, str]:
        return {int(n): self._normal_text(self.organ[n]) for n in np.flatnonzero(self._rows(TEST))}

    def _neighbours(self) -> dict[int, str]:
        """The training study with the highest mean cosine similarity over the organs that both have."""
        unit = self._features / np.maximum(np.linalg.norm(self._features, axis=1, keepdims=True), 1e-9)
        tests, names = self.studies.of(TEST), self.studies.study_ids
        in_test, in_training = self._rows(TEST), self._rows(TRAIN)
        position = np.zeros(len(names), np.int64)
        position[tests], position[self.training] = np.arange(len(tests)), np.arange(len(self.training))
        total, shared = np.zeros((2, len(tests), len(self.training)))
        for organ in self.passages.organs:
            here = self.organ == organ
            queries, known = np.flatnonzero(in_test & here), np.flatnonzero(in_training & here)
            cells = np.ix_(position[self.study[queries]], position[self.study[known]])
            total[cells] += unit[queries] @ unit[known].T
            shared[cells] += 1
        mean = np.divide(total, shared, out=np.full_like(total, -np.inf), where=shared > 0)
        nearest = self.training[mean.argmax(1)]
        return {
            int(n): self.passages.texts.get((names[nearest[position[self.study[n]]]], self.organ[n]), "")
            for n in np.flatnonzero(in_test)
        }

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """What enough training reports affirm of an organ, and enough do not."""
        counts: dict[Pair, int] = {}
        for number in self.training:
            for pair in self._affirmed[number]:
                if pair[1] in self.dictionaries.abnormalities:
                    counts[pair] = counts.get(pair, 0) + 1
        return tuple(sorted(p for p, n in counts.items() if self.least <= n <= len(self.training) - self.least))

    @cached_property
    def _affirmed(self) -> list[set[Pair]]:
        """What the report of each study affirms."""
        facts = (self.passages.facts.get(name, ()) for name in self.studies.study_ids)
        return [{fact[:2] for fact in several if fact.status == "affirmed"} for several in facts]

    def _truth(self, pair: Pair, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        return np.array([pair in self._affirmed[self.study[n]] for n in rows], np.int64)

    def _classified(self) -> dict[int, str]:
        """A logistic regression on the standardised features of each pair's organ."""
        from sklearn.linear_model import LogisticRegression

        def probabilities(pair: Pair, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
            known = np.flatnonzero(self._rows(TRAIN) & (self.organ == pair[0]))
            truth = self._truth(pair, known)
            if len(set(truth.tolist())) < 2 or not len(rows):
                return None
            fitted = LogisticRegression(max_iter=1000).fit(self._features[known], truth)
            return fitted.predict_proba(self._features[rows])[:, 1]

        return self._templates(probabilities)

    def _answered(self) -> dict[int, str] | None:
        """The model's own zero-shot answers."""
        scorer, diagnosis = self.scorer, self.diagnosis
        if scorer is None or diagnosis is None:
            return None

        def probabilities(pair: Pair, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
            return scorer.calibration.probabilities(scorer.differences(diagnosis[rows], [pair])[:, 0])

        return self._templates(probabilities)

    def _templates(
        self, probabilities: Callable[[Pair, Int[np.ndarray, " n"]], Float[np.ndarray, " n"] | None]
    ) -> dict[int, str]:
        """The dictionary's sentences of what is answered yes to, by the threshold with the best F1 on validation."""
        sentences: dict[int, list[str]] = {int(n): [] for n in np.flatnonzero(self._rows(TEST))}
        for pair in self.pairs:
            here = self.organ == pair[0]
            val, test = np.flatnonzero(self._rows(VAL) & here), np.flatnonzero(self._rows(TEST) & here)
            scores = probabilities(pair, np.concatenate([val, test]))
            if scores is None:
                continue
            threshold = best_f1_threshold(self._truth(pair, val), scores[: len(val)]) if len(val) else None
            organ, abnormality = self.dictionaries.organs[pair[0]], self.dictionaries.abnormalities[pair[1]]
            for n in test[scores[len(val) :] >= (_EVEN if threshold is None else threshold)]:
                sentences[int(n)].append(positive_prompts(abnormality, organ)[0])
        return {n: " ".join(texts) or self._normal_text(self.organ[n]) for n, texts in sentences.items()}


def frozen_baselines(
    store: Store,
    release: Release,
    config: ReportConfig,
    studies: Studies,
    passages: Passages,
    dictionaries: Dictionaries,
    rows: Int[np.ndarray, " n"],
) -> PassageBaselines:
    """The baselines of a model as it was, which need no head where it has none."""
    least = config.report.least
    if not release.aligned:
        read = cached_features(store, release, studies, config)
        organ = np.array(read.bags.organs, object)[read.bags.organ]
        return PassageBaselines(
            passages, studies, rows, read.bags.study, organ, read.features.cpu().numpy(), dictionaries, least
        )
    found = organ_features_of(
        store, release, studies.study_ids, passages.organs, batch=config.fit.encode, threads=config.fit.threads
    )
    number = {name: row for row, name in enumerate(studies.study_ids)}
    study = np.array([number[one.study_id] for one in found.instances], np.int64)
    organ = np.array([one.organ for one in found.instances], object)
    return PassageBaselines(
        passages, studies, rows, study, organ, found.embeddings.features, dictionaries, least, Scorer(release),
        found.embeddings.diagnosis,
    )  # fmt: skip


def written_baselines(baselines: PassageBaselines, names: Sequence[Baseline]) -> dict[Baseline, pl.DataFrame]:
    """The passages of some baselines, without those that cannot be had."""
    found: dict[Baseline, pl.DataFrame | None] = {name: baselines.written(name) for name in names}
    return {name: table for name, table in found.items() if table is not None}
