"""Organ text of others in the store: what becomes of it, which of two sources counts, and where they disagree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ctglip_preprocessing.command import describe
from ctglip_preprocessing.disagreement import cohen_kappa, source_agreement
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.organ_text import GivenText, given_findings, read_organ_text, with_organ_text
from ctglip_preprocessing.quality import quality_page

from ctglip.cohort import read_cohort
from ctglip.data.captions import CaptionBuilder
from ctglip.errors import CohortError
from ctglip.reports.cohort_reports import by_rules, cohort_findings
from ctglip.reports.parser import get_parser
from ctglip.store.findings import findings_by_study
from ctglip.store.study import StudyReader
from ctglip.store.tables import Store
from ctglip.store.verify import verify
from ctglip.types import Failure, Finding, Report
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.preprocessing.conftest import write_table
from tests.store.tables_of import change_table

NAMES = ("study_id", "organ", "sentence", "theirs", "source", "abnormality", "status")
# The reports all say: the liver is enlarged, no splenomegaly.
TEXT = [
    ("00000", "liver", "The liver is enlarged.", "Liver", "radgenome", "", ""),
    ("00001", "liver", "The liver is normal.", "Liver", "radgenome", "", "normal"),
    ("00002", "liver", "There is fatty infiltration.", "Liver", "radgenome", "", ""),
    ("00000", "spleen", "No splenomegaly.", "Spleen", "radgenome", "", ""),
    ("00001", "spleen", "The spleen is enlarged.", "Spleen", "radgenome", "splenomegaly", "affirmed"),
    ("00001", "", "Something lies there.", "left glove", "radgenome", "", ""),
    ("00002", "spleen", "Wandering spleen syndrome.", "Spleen", "radgenome", "moon spleen", "affirmed"),
    ("09999", "liver", "The liver is normal.", "Liver", "radgenome", "", ""),
    ("09999", "spleen", "The spleen is normal.", "Spleen", "radgenome", "", ""),
]


def _write(path: Path, rows: list[tuple[str, ...]]) -> Path:
    return write_table(path, [dict(zip(NAMES, row, strict=True)) for row in rows])


@pytest.fixture
def given(make_cohort, tmp_path: Path) -> Path:
    """A cohort of three studies whose table names an organ text."""
    table, rows = make_cohort(3)
    _write(tmp_path / "organ_text.csv", TEXT)
    return write_table(table, [row | {"organ_text": "organ_text.csv"} for row in rows])


def test_the_organ_texts_of_fvlm_are_read(make_cohort, tmp_path: Path) -> None:
    table, _ = make_cohort(2)
    file = tmp_path / "desc_info.json"
    file.write_text(
        json.dumps({"00000": {"liver": "The liver is enlarged.", "glove": "Torn."}, "00001": {"spleen": "No lesion."}})
    )
    found = read_organ_text(with_organ_text(read_cohort(table), file))
    assert [(text.organ, text.sentence) for text in found.texts["00000"]] == [
        ("liver", "The liver is enlarged."),
        (None, "Torn."),
    ]
    assert [text.organ for text in found.texts["00001"]] == ["spleen"]
    assert any("glove (1)" in note for note in found.notes)


@pytest.mark.parametrize(
    ("organ", "sentence", "expected"),
    [
        ("esophagus", "Hiatal hernia.", ("esophagus", "hiatal_hernia", "affirmed")),
        ("stomach", "Hiatal hernia.", ("stomach", "hiatal_hernia", "affirmed")),
        ("esophagus", "No hiatal hernia.", ("esophagus", "hiatal_hernia", "negated")),
        ("spleen", "Hiatal hernia.", ("spleen", None, "affirmed")),
    ],
)
def test_what_organs_share_is_read_of_the_one_that_it_is_given_for(
    organ: str, sentence: str, expected: tuple[str, str | None, str]
) -> None:
    text = GivenText(sentence, organ, None, None, None, None, None, "radgenome", None, None, False)
    assert [(row.organ, row.abnormality, row.status) for row in given_findings([text], ())] == [expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"00000": {"recons": ["a.nii.gz"], "report": ["A nodule."]}}', "no text by organ"),
        ('{"00000": ["A nodule."]}', "no text by organ"),
        ('{"00000": {"liver": "The', "cannot be read as JSON"),
        ("[]", "no row"),
    ],
)
def test_other_json_is_refused_in_one_line(make_cohort, tmp_path: Path, text: str, message: str) -> None:
    table, _ = make_cohort(1)
    (tmp_path / "organs.json").write_text(text)
    with pytest.raises(CohortError, match=message) as caught:
        read_organ_text(with_organ_text(read_cohort(table), tmp_path / "organs.json"))
    assert len(str(caught.value).splitlines()) == 1


def _rows(store: Store, study_id: str, organ: str) -> set[tuple[str | None, str, str]]:
    found = store.table("findings").filter(study_id=study_id, organ=organ)
    return set(found.select("abnormality", "status", "source").iter_rows())


def test_given_sentences_stand_beside_the_parsers(given: Path, run, tmp_path: Path) -> None:
    summary = run()
    store = Store.open(tmp_path / "store")
    assert (summary.failed, verify(store)) == ((), [])
    assert _rows(store, "00000", "liver") == {
        ("hepatomegaly", "affirmed", "parser"), ("hepatomegaly", "affirmed", "radgenome"),
    }  # fmt: skip
    assert ("hepatic_steatosis", "affirmed", "radgenome") in _rows(store, "00002", "liver")
    assert _rows(store, "00001", "liver") == {("hepatomegaly", "affirmed", "parser"), (None, "normal", "radgenome")}
    shared = store.table("findings").filter(study_id="00000", sentence="The liver is enlarged.")
    assert shared["sentence_index"].unique().to_list() == [0]
    lone = store.table("findings").filter(study_id="00001", sentence="The liver is normal.")
    assert lone["sentence_index"].to_list() == [3]


def test_names_that_mean_nothing_and_other_studies_are_told(given: Path, run, tmp_path: Path) -> None:
    summary = run()
    assert summary.notes == (
        "organ_text.csv: no organ of ours: left glove (1).",
        "organ_text.csv: no abnormality of ours: moon spleen (1).",
        "organ_text.csv: 2 rows are of 1 studies that the cohort table does not have, first 09999.",
    )
    assert all(note in describe(summary) for note in summary.notes)
    store = Store.open(tmp_path / "store")
    assert "left glove" in (store.path / "quality.html").read_text(encoding="utf-8")
    unplaced = store.table("findings").filter(sentence="Something lies there.").row(0, named=True)
    assert (unplaced["organ"], unplaced["reason"]) == (None, "its place is no organ of the dictionary")
    assert (None, "affirmed", "radgenome") in _rows(store, "00002", "spleen")


@pytest.mark.parametrize(
    ("choice", "kinds", "affirmed"),
    [
        ("parser", ["abnormal", "abnormal", "abnormal"], [{"hepatomegaly"}, {"hepatomegaly"}, {"hepatomegaly"}]),
        ("given", ["abnormal", "normal", "abnormal"], [{"hepatomegaly"}, set(), {"hepatic_steatosis"}]),
        ("both", ["abnormal", "abnormal", "abnormal"],
         [{"hepatomegaly"}, {"hepatomegaly"}, {"hepatomegaly", "hepatic_steatosis"}]),
    ],
)  # fmt: skip
def test_captions_honour_the_choice(given: Path, run, config, tmp_path: Path, choice, kinds, affirmed) -> None:
    run(config=config.model_copy(update={"findings_from": choice}))
    store = Store.open(tmp_path / "store")
    found = findings_by_study(store, set(store.study_ids))
    builder = CaptionBuilder(load_organs(), load_abnormalities())
    captions = builder.add_all([(found[name], "liver") for name in store.study_ids])
    assert [one.kind for one in captions] == kinds
    assert [set(one.affirmed) for one in captions] == affirmed
    denied = {"hepatomegaly"} & {*captions[2].hard, *captions[2].others}
    assert not denied, "what the parser alone affirms must not be drawn as false"


def test_another_choice_holds_at_once_and_makes_nothing_anew(given: Path, run, config, tmp_path: Path) -> None:
    run()
    page = (tmp_path / "store" / "quality.html").read_text(encoding="utf-8")
    assert "the given ones count" in page
    summary = run(config=config.model_copy(update={"findings_from": "parser"}))
    assert (summary.worked, summary.written) == (0, 0)
    store = Store.open(tmp_path / "store")
    assert all(row.source == "parser" for rows in findings_by_study(store, {"00001"}).values() for row in rows)
    assert "the parser&#39;s count" in (store.path / "quality.html").read_text(encoding="utf-8")


def test_a_changed_sentence_makes_its_study_alone_anew(given: Path, run, tmp_path: Path) -> None:
    run()
    assert run().worked == 0
    _write(
        tmp_path / "organ_text.csv",
        [("00001", "liver", "The liver is enlarged.", "", "", "", ""), *TEXT[:1], *TEXT[2:]],
    )
    assert run().written == 1


def test_disagreement_is_what_a_count_by_hand_gives(make_cohort, run, tmp_path: Path) -> None:
    table, rows = make_cohort(4)
    rows[3]["report"] = "FINDINGS: The liver is normal. The spleen is enlarged."
    write_table(table, [row | {"organ_text": "organ_text.csv"} for row in rows])
    fourth = [(name, organ, text, "", "radgenome", "", "") for name, organ, text in (
        ("00003", "liver", "The liver is normal."), ("00003", "spleen", "The spleen is enlarged."),
    )]  # fmt: skip
    _write(tmp_path / "organ_text.csv", [*TEXT, *fourth])
    run()
    found = source_agreement(Store.open(tmp_path / "store"))
    assert found is not None
    liver, spleen = found.organs
    # liver, given and parser: (A, A) (N, A) (A, A by another) (N, N); by chance 2/4 * 3/4 + 2/4 * 1/4 = 1/2
    assert (liver.organ, liver.studies, liver.same, liver.other) == ("liver", 4, 3, 1)
    assert liver.kappa == pytest.approx((3 / 4 - 1 / 2) / (1 - 1 / 2))
    # spleen: (N, N) (A, N) (uncertain, N) (A, A); by chance 1/4 * 3/4 + 2/4 * 1/4 = 5/16
    assert (spleen.studies, spleen.same, spleen.other) == (4, 2, 0)
    assert spleen.kappa == pytest.approx((2 / 4 - 5 / 16) / (1 - 5 / 16))
    assert {(one.study_id, one.organ, one.given, one.parser) for one in found.examples} == {
        ("00001", "liver", "normal", "abnormal: hepatomegaly"),
        ("00002", "liver", "abnormal: hepatic steatosis", "abnormal: hepatomegaly"),
        ("00001", "spleen", "abnormal: splenomegaly", "normal"),
        ("00002", "spleen", "uncertain", "normal"),
    }
    shown = next(one for one in found.examples if (one.study_id, one.organ) == ("00001", "spleen"))
    assert (shown.given_sentences, shown.parser_sentences) == (("The spleen is enlarged.",), ("No splenomegaly.",))
    assert quality_page(Store.open(tmp_path / "store")).sources == found


@pytest.mark.parametrize(
    ("organ", "sentence", "stated", "expected"),
    [
        ("pancreas", "It is atrophic.", (None, None), [("pancreas", "pancreatic_atrophy", "affirmed")]),
        ("lungs", "A nodule in the right upper lobe.", (None, None),
         [("lung_upper_lobe_right", "lung_nodule", "affirmed")]),
        ("kidney_left", "Both kidneys are normal.", (None, None), [("kidney_left", None, "normal")]),
        ("liver", "Fatty infiltration. The spleen is normal.", (None, None),
         [("liver", "hepatic_steatosis", "affirmed"), ("liver", None, "negated")]),
        ("liver", "Quite remarkable.", (None, None), [("liver", None, "affirmed")]),
        ("lungs", "No nodule.", ("lung_nodule", None), [("lungs", "lung_nodule", "negated")]),
        ("liver", "Quite remarkable.", ("hepatomegaly", None), [("liver", "hepatomegaly", "uncertain")]),
        ("liver", "Quite remarkable.", ("hepatomegaly", "affirmed"), [("liver", "hepatomegaly", "affirmed")]),
    ],
)  # fmt: skip
def test_a_sentence_is_read_as_one_about_its_organ(organ: str, sentence: str, stated, expected) -> None:
    abnormality, status = stated
    text = GivenText(sentence, organ, abnormality, status, None, None, None, "set", None, None, None not in stated)
    found = given_findings([text], ())
    assert [(row.organ, row.abnormality, row.status) for row in found] == expected
    assert all(row.sentence in sentence and row.source == "set" for row in found)


def test_kappa_is_cohens() -> None:
    """Cohen's own arrangement: 20 + 15 of 50 agree, the readers say yes 25 and 30 times; kappa is 0.4."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert cohen_kappa([("y", "y")] * 4) is None
    assert cohen_kappa([("y", "n"), ("n", "y")]) == pytest.approx(-1)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_parse_writes_comes_back_as_it_was(make_cohort, config, tmp_path: Path, ending: str) -> None:
    def read(report: Report, study_id: str) -> tuple[tuple[Finding, ...], Failure | None]:
        rows = get_parser().parse(report)
        return tuple(Finding(**{**vars(row), "source": "llm:some"}) for row in rows), None

    cohort = read_cohort(make_cohort(2)[0])
    table, _ = cohort_findings(cohort.rows, read=read)
    path = tmp_path / f"findings.{ending}"
    (table.write_csv if ending == "csv" else table.write_parquet)(path)
    summary = preprocess_cohort(with_organ_text(cohort, path), tmp_path / "store", config)
    assert summary.notes == ()
    stored = Store.open(tmp_path / "store").table("findings").filter(source="llm:some")
    assert stored.select(table.columns).equals(table)
    own, _ = cohort_findings(cohort.rows, read=by_rules)
    own.write_csv(tmp_path / "own.csv")
    texts = read_organ_text(with_organ_text(cohort, tmp_path / "own.csv")).texts
    assert {row.source for rows in texts.values() for row in rows} == {"given"}


def test_a_store_made_before_there_was_a_source_reads_as_the_parsers(
    make_cohort, run, tmp_path: Path, monkeypatch
) -> None:
    make_cohort(2)
    run()
    store = Store.open(tmp_path / "store")
    expected = findings_by_study(store, set(store.study_ids))
    change_table(store, "findings", lambda table: table.drop("source"))
    stored = StudyReader.rows

    def without(study: StudyReader, table: str) -> list[dict]:
        return [{key: value for key, value in row.items() if key != "source"} for row in stored(study, table)]

    monkeypatch.setattr(StudyReader, "rows", without)
    assert store.table("findings")["source"].unique().to_list() == ["parser"]
    assert findings_by_study(store, set(store.study_ids)) == expected
    assert verify(store) == []
    assert quality_page(store).sources is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("study_id,sentence\n1,a\n", "no column 'organ'; it has study_id, sentence"),
        ("study_id,organ,sentence\n", "headings and no row"),
        ("study_id,organ,sentence\n00000,liver,\n", "row 2 has no sentence"),
        ("study_id,organ,sentence,status\n00000,liver,a,perhaps\n", "row 2 has status 'perhaps'"),
        ("study_id,organ,sentence,sentence_index\n00000,liver,a,first\n", "row 2 has sentence_index 'first'"),
        ("study_id,organ,sentence\n00000,liver\n", "line 2 has 2"),
    ],
)
def test_a_malformed_table_is_refused_in_one_line(make_cohort, run, tmp_path: Path, content: str, message: str) -> None:
    table, rows = make_cohort(1)
    (tmp_path / "text.csv").write_text(content)
    write_table(table, [row | {"organ_text": "text.csv"} for row in rows])
    with pytest.raises(CohortError) as caught:
        run()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()
