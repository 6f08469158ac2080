"""Entity-aware masking: what is hidden how often, whole words, and weights whose sum is always the length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctglip.data.masking import EntityMasker, MaskingSettings
from ctglip.reports.wordpiece import WordPieces, WordPieceSettings, learn_pieces

TEXTS = [
    "there is no evidence of effusion . there is no pneumothorax .",
    "small left effusion is seen . the heart is enlarged .",
    "moderate right basilar atelectasis , unchanged .",
] * 3
WORDS = sorted({word for text in TEXTS for word in text.split()})
LENGTH = 40


@pytest.fixture(scope="module")
def pieces() -> WordPieces:
    return learn_pieces(TEXTS, WordPieceSettings(vocabulary=400, length=LENGTH))


def masker(pieces: WordPieces, **chances) -> EntityMasker:
    return EntityMasker(pieces, ["effusion", "atelectasis", "pneumothorax", "hyperinflate"], MaskingSettings(**chances))


def rates(pieces: WordPieces, text: str, **chances) -> dict[str, float]:
    """How often each word of a text is hidden."""
    rng, made = np.random.default_rng(0), masker(pieces, **chances)
    cut = pieces(text)
    hidden = np.mean([made(cut, rng).hidden for _ in range(3000)], axis=0)
    assert hidden[0] == 0
    assert not hidden[cut.ids == pieces.pad].any()
    return dict(zip(text.split(), hidden[1:], strict=False))


def test_words_without_an_entity_are_hidden_alike(pieces):
    found = rates(pieces, "the heart is enlarged")
    assert all(rate == pytest.approx(0.75, abs=0.03) for rate in found.values())


@pytest.mark.parametrize(("descriptors", "rate"), [("paper", 1.0), ("released", 0.7)])
def test_descriptors_are_hidden_as_the_switch_says(pieces, descriptors, rate):
    found = rates(pieces, "unchanged moderate basilar atelectasis , the heart", descriptors=descriptors)
    assert found["moderate"] == pytest.approx(rate, abs=0.03)
    assert found["basilar"] == pytest.approx(rate, abs=0.03)
    assert found["atelectasis"] == pytest.approx(0.75, abs=0.03)
    assert found["unchanged"] == pytest.approx(0.7, abs=0.03)
    assert found["heart"] == pytest.approx(0.7, abs=0.03)


def test_full_stops_describe_nothing_and_uniform_hides_all_alike(pieces):
    made = masker(pieces)
    cut = pieces("enlarged . effusion , atelectasis")
    found = made(cut, np.random.default_rng(0))
    assert [pieces.tokenizer.id_to_token(i) for i in cut.ids[found.focus]] == [
        "enlarged",
        "effusion",
        ",",
        "atelectasis",
    ]
    plain = rates(pieces, "moderate basilar atelectasis", kind="uniform")
    assert all(rate == pytest.approx(0.75, abs=0.03) for rate in plain.values())
    assert (masker(pieces, kind="uniform")(cut, np.random.default_rng(0)).weights == 1).all()


def test_pieces_of_a_word_are_hidden_together(pieces):
    made, rng = masker(pieces), np.random.default_rng(1)
    cut = pieces("thoraxheart smallish , heartless effusion")
    assert cut.inside.sum() >= 3
    for _ in range(200):
        hidden = made(cut, rng).hidden
        assert (hidden[cut.inside] == hidden[np.flatnonzero(cut.inside) - 1]).all()


def test_weights_by_hand(pieces):
    made = masker(pieces)
    cut = pieces("there is no evidence of small effusion")  # d = 5, m = 2 ("of", "small"), both 1
    weights = made(cut, np.random.default_rng(0)).weights
    factor = (0.95 * (5 - 1) + 2) / (2 - 0.95)
    expected = [1, 0.05, 0.05, 0.05, 0.05, 0.05 * factor, factor, 1]
    np.testing.assert_allclose(weights[:8], expected, rtol=1e-6)
    none = made(pieces("there is no heart"), np.random.default_rng(0)).weights
    np.testing.assert_allclose(none[[0, 1, 4]], np.array([1, 0.05, 1]) * LENGTH / (LENGTH - 0.95 * 3), rtol=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*WORDS, "there is no", "there is no evidence of"]), max_size=30), st.integers(0, 9))
def test_the_sum_of_the_weights_never_changes(words, seed):
    pieces = learn_pieces(TEXTS, WordPieceSettings(vocabulary=400, length=LENGTH)) if not _KEPT else _KEPT[0]
    _KEPT[:] = [pieces]
    for descriptors in ("paper", "released"):
        made = masker(pieces, descriptors=descriptors)(pieces(" ".join(words)), np.random.default_rng(seed))
        assert made.weights.sum() == pytest.approx(LENGTH, rel=1e-5)
        assert (made.weights > 0).all()
        assert not made.hidden[0]


_KEPT: list[WordPieces] = []
