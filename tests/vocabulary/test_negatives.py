"""Negatives: whatever a report says, none of them may be true of the study."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctglip.errors import VocabularyError
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary, load_abnormalities
from ctglip.vocabulary.evidence import OrganEvidence, organ_evidence
from ctglip.vocabulary.negatives import Negative, Strategy, allowed_negatives, sample_negatives
from ctglip.vocabulary.organs import OrganDictionary, load_organs
from ctglip.vocabulary.prompts import positive_prompts

ORGANS, ABNORMALITIES = load_organs(), load_abnormalities()
PAIRS = ABNORMALITIES.pairs()
STATUSES = ("affirmed", "negated", "uncertain", "historical", "normal")

findings = st.lists(
    st.builds(
        lambda pair, status, side: Finding(0, "findings", f"{pair} {status}", pair[0], pair[1], status, side),
        st.sampled_from(PAIRS),
        st.sampled_from(STATUSES),
        st.sampled_from((None, "left", "right", "bilateral")),
    ),
    max_size=8,
)
organ_names = st.sampled_from([name for name in ORGANS.names if ABNORMALITIES.of_organ(name)])
strategies = st.sampled_from(get_args(Strategy))


def _draw(evidence: OrganEvidence, k: int, seed: int, strategy: Strategy = "same_organ") -> list[Negative]:
    return sample_negatives(evidence, k, np.random.default_rng(seed), ORGANS, ABNORMALITIES, strategy)


@settings(max_examples=150, deadline=None)
@given(findings, organ_names, st.integers(0, 12), st.integers(0, 2**32 - 1), strategies)
def test_no_negative_is_affirmed_uncertain_or_kin_of_either(
    rows: list[Finding], organ: str, k: int, seed: int, strategy: Strategy
) -> None:
    evidence = organ_evidence(rows, organ, ORGANS, ABNORMALITIES)
    drawn = _draw(evidence, k, seed, strategy)
    names = [negative.abnormality for negative in drawn]
    said = {*evidence.affirmed, *evidence.uncertain}
    assert not {name for name in names if ABNORMALITIES.related(name) & said}
    assert len(names) == len(set(names)) <= k
    if strategy in ("same_organ", "hierarchy"):
        assert set(names) <= {entry.name for entry in ABNORMALITIES.of_organ(organ)}
        assert len(names) == min(k, len(allowed_negatives(evidence, ORGANS, ABNORMALITIES)))
    if strategy == "random":
        possible = {row.abnormality for row in rows if row.abnormality and row.status not in ("negated", "normal")}
        soft = [negative.abnormality for negative in drawn if not negative.hard]
        assert not {name for name in soft if ABNORMALITIES.related(name) & possible}
    if strategy == "none":
        assert not names


@settings(max_examples=100, deadline=None)
@given(
    findings,
    organ_names,
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
    st.sampled_from(("random", "same_organ", "hierarchy")),
)
def test_denied_ones_come_first_and_are_marked(
    rows: list[Finding], organ: str, k: int, seed: int, strategy: Strategy
) -> None:
    evidence = organ_evidence(rows, organ, ORGANS, ABNORMALITIES)
    drawn = _draw(evidence, k, seed, strategy)
    hard = [negative.hard for negative in drawn]
    assert hard == sorted(hard, reverse=True)
    denied = set(allowed_negatives(evidence, ORGANS, ABNORMALITIES)) & evidence.negated
    assert sum(hard) == min(k, len(denied))
    assert {negative.abnormality for negative in drawn if negative.hard} <= denied


@settings(max_examples=50, deadline=None)
@given(findings, organ_names, st.integers(0, 2**32 - 1), strategies)
def test_the_same_seed_draws_the_same(rows: list[Finding], organ: str, seed: int, strategy: Strategy) -> None:
    evidence = organ_evidence(rows, organ, ORGANS, ABNORMALITIES)
    assert _draw(evidence, 6, seed, strategy) == _draw(evidence, 6, seed, strategy)


@settings(max_examples=50, deadline=None)
@given(organ_names, st.integers(0, 2**32 - 1))
def test_wording_is_a_positive_phrasing_about_that_very_organ(organ: str, seed: int) -> None:
    for negative in _draw(OrganEvidence(organ), 4, seed):
        assert negative.text in positive_prompts(ABNORMALITIES[negative.abnormality], ORGANS[organ])


def test_seeds_draw_differently_and_reach_everything() -> None:
    evidence = OrganEvidence("liver")
    seen = {n.abnormality for seed in range(60) for n in _draw(evidence, 5, seed)}
    assert seen == set(allowed_negatives(evidence, ORGANS, ABNORMALITIES))


def test_hierarchy_prefers_what_is_easily_mistaken() -> None:
    evidence = OrganEvidence("liver", affirmed={"liver_cyst": "A cyst."})
    parents = ABNORMALITIES["liver_cyst"].parents
    kin = {kind for parent in parents for kind in ABNORMALITIES.descendants(parent)} - ABNORMALITIES.related(
        "liver_cyst"
    )
    near = kin & set(allowed_negatives(evidence, ORGANS, ABNORMALITIES))
    assert "liver_metastasis" in near
    counts = {
        strategy: Counter(n.abnormality for seed in range(300) for n in _draw(evidence, 2, seed, strategy))
        for strategy in ("same_organ", "hierarchy")
    }
    drawn = {strategy: sum(counts[strategy][name] for name in near) for strategy in counts}
    assert drawn["hierarchy"] > 1.5 * drawn["same_organ"]


def test_random_reaches_beyond_the_organ() -> None:
    evidence = OrganEvidence("liver", affirmed={"liver_cyst": "A cyst."})
    own = {entry.name for entry in ABNORMALITIES.of_organ("liver")}
    drawn = {n.abnormality for seed in range(40) for n in _draw(evidence, 8, seed, "random")}
    assert drawn - own
    assert not drawn & ABNORMALITIES.related("liver_cyst")


def test_an_unknown_organ_is_refused(organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> None:
    with pytest.raises(VocabularyError, match="nowhere"):
        allowed_negatives(OrganEvidence("nowhere"), organs, abnormalities)
