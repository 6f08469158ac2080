"""Negatives: whatever a report says, none of them may be true of the study."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctglip.errors import VocabularyError
from ctglip.types import Finding
from ctglip.vocabulary.abnormalities import AbnormalityDictionary, load_abnormalities
from ctglip.vocabulary.evidence import OrganEvidence, organ_evidence
from ctglip.vocabulary.negatives import allowed_negatives, confusable
from ctglip.vocabulary.organs import OrganDictionary, load_organs

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


@settings(max_examples=150, deadline=None)
@given(findings, organ_names)
def test_no_negative_is_affirmed_uncertain_or_kin_of_either(rows: list[Finding], organ: str) -> None:
    evidence = organ_evidence(rows, organ, ORGANS, ABNORMALITIES)
    allowed = allowed_negatives(evidence, ORGANS, ABNORMALITIES)
    affirmed = {*evidence.affirmed, *evidence.uncertain}
    own = [entry.name for entry in ABNORMALITIES.of_organ(organ)]
    assert list(allowed) == [name for name in own if not ABNORMALITIES.related(name) & affirmed]


def test_what_is_easily_mistaken_shares_a_parent_or_excludes() -> None:
    near = confusable(OrganEvidence("liver", affirmed={"liver_cyst": "A cyst."}), ABNORMALITIES)
    assert "liver_metastasis" in near
    assert confusable(OrganEvidence("liver"), ABNORMALITIES) == frozenset()


def test_an_unknown_organ_is_refused(organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> None:
    with pytest.raises(VocabularyError, match="nowhere"):
        allowed_negatives(OrganEvidence("nowhere"), organs, abnormalities)
