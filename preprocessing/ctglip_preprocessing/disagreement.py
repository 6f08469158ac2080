"""Where the findings that were given and the parser's call an organ differently."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ctglip.pages.quality import Disagreement, OrganAgreement, SourceAgreement
from ctglip.store.findings import findings_by_study
from ctglip.store.tables import Store
from ctglip.types import PARSER, Finding
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.evidence import OrganEvidence, organ_evidence, organs_named
from ctglip.vocabulary.organs import load_organs

MOST_COMPARED = 2000
"""Studies that are compared, at even steps through the list: enough for kappa to the second digit."""
EXAMPLES = 10
_COUNTING = {
    "given": "the given ones count",
    "parser": "the parser's count",
    "both": "both count",
}


@dataclass(frozen=True)
class _Pair:
    """One organ of one study as both tell it: what they find, and the sentences that they find it in."""

    study_id: str
    source: str
    given: OrganEvidence
    parsed: OrganEvidence
    given_sentences: tuple[str, ...]
    own_sentences: tuple[str, ...]

    @property
    def states(self) -> tuple[str, str]:
        return state(self.given), state(self.parsed)

    @property
    def is_other(self) -> bool:
        """Both find it abnormal, by other abnormalities."""
        given, parsed = self.given.affirmed.keys(), self.parsed.affirmed.keys()
        return bool(given and parsed and given != parsed)


def source_agreement(store: Store) -> SourceAgreement | None:
    """How far given findings agree with the parser's, organ by organ; None for a store without given ones."""
    found = store.scan("findings").filter(pl.col("source") != PARSER).select(pl.col("study_id").unique())
    given = found.collect(engine="streaming")["study_id"].sort().to_list()
    if not given:
        return None
    steps = np.linspace(0, len(given) - 1, min(len(given), MOST_COMPARED)).round().astype(int)
    compared = {given[step] for step in steps}
    pairs: defaultdict[str, list[_Pair]] = defaultdict(list)
    for study_id, rows in sorted(findings_by_study(store, compared, "both").items()):
        for organ, pair in _both_speak(study_id, rows):
            pairs[organ].append(pair)
    organs = load_organs()
    names = [name for name in organs.names if name in pairs]
    return SourceAgreement(
        counting=_COUNTING[store.info.findings_from],
        compared=len(compared),
        studies=len(given),
        organs=tuple(_agreement(organs[name].display, pairs[name]) for name in names),
        examples=_examples({organs[name].display: pairs[name] for name in names}),
    )


def _both_speak(study_id: str, rows: Sequence[Finding]) -> Iterator[tuple[str, _Pair]]:
    """The organs that a study's given findings name and the parser's speak of."""
    organs, abnormalities = load_organs(), load_abnormalities()
    given = [row for row in rows if row.source != PARSER]
    parsed = [row for row in rows if row.source == PARSER]
    for organ in sorted({name for row in given for name in organs_named(row, organs)}):
        theirs, ours = (organ_evidence(some, organ, organs, abnormalities) for some in (given, parsed))
        if ours.mentioned:
            source = next(row.source for row in given if organ in organs_named(row, organs))
            family = {organ, *organs.parts_of(organ), *organs.containing(organ)}
            sentences = (
                tuple(dict.fromkeys(row.sentence for row in some if not family.isdisjoint(organs_named(row, organs))))
                for some in (given, parsed)
            )
            yield organ, _Pair(study_id, source, theirs, ours, *sentences)


def state(evidence: OrganEvidence) -> str:
    """What an organ is called: ``abnormal`` (something is affirmed), ``uncertain`` (suspected, or affirmed without a
    name), else ``normal``."""
    if evidence.affirmed:
        return "abnormal"
    return "uncertain" if evidence.uncertain or evidence.sentences else "normal"


def _agreement(organ: str, pairs: Sequence[_Pair]) -> OrganAgreement:
    states = [pair.states for pair in pairs]
    same = sum(one == other for one, other in states)
    return OrganAgreement(organ, len(pairs), same, cohen_kappa(states), sum(pair.is_other for pair in pairs))


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two readers, ``(observed - chance) / (1 - chance)``; None where chance alone explains all."""
    total = len(pairs)
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    chance = sum(first.count(name) * second.count(name) for name in {*first, *second}) / total**2
    observed = sum(one == other for one, other in pairs) / total
    return None if chance == 1 else (observed - chance) / (1 - chance)


def _examples(pairs: dict[str, list[_Pair]]) -> tuple[Disagreement, ...]:
    """Ten of them, from the organs in turn: those of another state first, then those of other abnormalities."""
    ranked: list[tuple[bool, int, str, _Pair]] = []
    for organ, several in pairs.items():
        differing = [pair for pair in several if pair.is_other or len(set(pair.states)) > 1]
        ranked += [(pair.is_other, rank, organ, pair) for rank, pair in enumerate(differing)]
    return tuple(
        Disagreement(
            pair.study_id, organ, pair.source, _words(pair.given), _words(pair.parsed),
            pair.given_sentences[:3], pair.own_sentences[:3],
        )
        for _, _, organ, pair in sorted(ranked, key=lambda one: one[:3])[:EXAMPLES]
    )  # fmt: skip


def _words(evidence: OrganEvidence) -> str:
    names = sorted(evidence.affirmed or evidence.uncertain)
    return f"{state(evidence)}: {', '.join(name.replace('_', ' ') for name in names)}" if names else state(evidence)
