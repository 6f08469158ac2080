import pytest

from ctglip.reports.spelling import Spelling
from ctglip.reports.trie import Trie
from ctglip.reports.words import Forms, normal_form, phrase, read_words


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("Nodules", "nodule"),
        ("calculi", "calculus"),
        ("metastases", "metastasis"),
        ("opacities", "opacity"),
        ("masses", "mass"),
        ("diseases", "disease"),
        ("oedema", "edema"),
        ("Oesophageal", "esophageal"),
        ("tumours", "tumor"),
        ("pelvis", "pelvis"),
        ("pneumothoraces", "pneumothorax"),
        ("effusıon", "effusion"),
        ("wasn't", "not"),
        ("can't", "cannot"),
        ("is", "is"),
    ],
)
def test_one_form_for_each_word(word, form):
    assert normal_form(word) == form


def test_articles_and_hyphens_are_read_over():
    assert phrase("lobe of the lung") == phrase("lobe of lung")
    assert phrase("Ground-glass opacities") == phrase("ground glass opacity")


def test_hyphens_tie_words():
    words, tied = read_words("L1-L3 and 5 mm")
    assert words == ["l1", "l3", "and", "5", "mm"]
    assert tied == {1}


def test_numbers_stay_whole():
    assert read_words("1.5 x 2,5cm")[0] == ["1.5", "x", "2,5", "cm"]


def test_a_slip_of_one_letter_is_mended():
    spelling = Spelling({"effusion", "atelectasis", "pleural"}, {"effusive"})
    assert spelling.correct("efusion") == "effusion"
    assert spelling.correct("effsuion") == "effusion"
    assert spelling.correct("atelectesis") == "atelectasis"
    assert spelling.correct("effusive") == "effusive"


def test_short_distant_and_doubtful_words_stay():
    spelling = Spelling({"thinning", "thickening", "stenting", "stinting"})
    assert spelling.correct("thing") == "thing"
    assert spelling.correct("thrombosis") == "thrombosis"
    assert spelling.correct("stunting") == "stunting"


def test_the_longest_phrase_wins():
    trie = Trie()
    trie.add(("renal",), "organ")
    trie.add(("renal", "cyst"), "cyst")
    trie.add(("renal", "cyst"), "other")
    found = trie.find(["a", "renal", "cyst", "renal"])
    assert [(m.start, m.end, m.value) for m in found] == [(1, 3, "cyst"), (3, 4, "organ")]
    assert trie.find(["liver"]) == []
    assert trie.get(("renal",)) == "organ"
    assert trie.get(("cyst",)) is None


@pytest.mark.parametrize("text", ["L1-L3 and 5 mm", "1.5 x 2,5cm (T2)", "cT1 N0", "a;b/c 3x4", "C10 ct s1x L123"])
def test_a_sign_beyond_ascii_changes_no_other_word(text: str) -> None:
    words, tied = read_words(text)
    assert read_words(f"{text} é") == ([*words, "e"], tied)


def test_forms_are_made_once_and_begin_anew() -> None:
    made: list[str] = []
    forms = Forms(lambda word: made.append(word) or word.lower(), most=2)
    assert [forms[word] for word in ("A", "B", "A")] == ["a", "b", "a"]
    assert made == ["A", "B"]
    assert forms["C"] == "c"
    assert len(forms) == 1
