"""A vocabulary of the cohort's own words."""

from __future__ import annotations

import numpy as np
import pytest

from ctglip.errors import ModelError
from ctglip.reports.wordpiece import WordPieceSettings, learn_pieces, pieces_for, read_pieces

TEXTS = ["Small LEFT effusion.", "No effusion, no pneumothorax.", "Pneumothorax on the left. Œdème."] * 4


def test_special_pieces_come_first_and_words_are_lower_case_without_accents():
    pieces = learn_pieces(TEXTS, WordPieceSettings(vocabulary=300, length=12))
    assert [pieces.tokenizer.token_to_id(name) for name in ("[PAD]", "[UNK]", "[CLS]", "[MASK]", "[SEP]")] == [
        *range(5)
    ]
    cut = pieces("SMALL éffusion.")
    assert cut.ids[0] == pieces.begin
    assert pieces.words(cut.ids[1:]) == "small effusion."
    assert (cut.ids[4:] == 0).all()
    assert len(pieces.ids_of("pneumothorax")) == 1


def test_pieces_inside_of_words_are_known_and_long_texts_are_cut():
    pieces = learn_pieces(TEXTS, WordPieceSettings(vocabulary=300, length=8))
    cut = pieces("effusionleft no")
    words = [pieces.tokenizer.id_to_token(i) or "" for i in cut.ids]
    assert [word.startswith("##") for word in words] == cut.inside.tolist()
    assert cut.inside.any()
    long = pieces("left " * 30)
    assert len(long.ids) == len(long.inside) == 8
    assert pieces("").ids.tolist() == [pieces.begin] + [0] * 7


def test_the_same_texts_in_any_order_give_the_same_pieces_and_a_run_keeps_them(tmp_path):
    settings = WordPieceSettings(vocabulary=300, length=8)
    first = pieces_for(settings, TEXTS, tmp_path)
    again = learn_pieces(TEXTS[::-1], settings)
    assert first.tokenizer.get_vocab() == again.tokenizer.get_vocab()
    kept = pieces_for(settings, ["other texts altogether"], tmp_path)
    assert kept.tokenizer.to_str() == first.tokenizer.to_str()
    np.testing.assert_array_equal(read_pieces(tmp_path, 8)("no effusion").ids, first("no effusion").ids)


def test_a_tokeniser_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="nowhere"):
        read_pieces(tmp_path / "nowhere", 8)
