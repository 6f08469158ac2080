from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from ctglip.pages import answers, compare, index, pairs, quality, report
from ctglip.pages.parts import Fact, Link, Picture
from ctglip.types import Interval

MODULES: dict[str, Any] = {
    "report_page": report, "scan_page": answers, "quality_page": quality, "pairs_page": pairs, "index_page": index,
    "compare_page": compare,
}  # fmt: skip
EMPTY: dict[str, Any] = {
    "report_page": report.EvaluationPage("Empty", "test", "nothing", Interval(None), ()),
    "scan_page": answers.AnswersPage("Empty"),
    "quality_page": quality.QualityPage("Empty", 0),
    "pairs_page": pairs.PairsPage("Empty"),
    "index_page": index.IndexPage("Empty", "Nothing.", Interval(None)),
    "compare_page": compare.Comparison(
        "a", "Empty", "test", "nothing", 0, Interval(None), Interval(None), Interval(None), None, ()
    ),
}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
VOID = {"meta", "link", "img", "br", "input"}


class Reader(HTMLParser):
    """Collects what a page is made of and checks that its elements are nested."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(params=list(MODULES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def html(name: str, request: pytest.FixtureRequest) -> str:
    return MODULES[name].render(request.getfixturevalue(name))


def test_rendering_twice_gives_the_same_bytes(name: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(name)
    assert MODULES[name].render(page) == MODULES[name].render(page)


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    assert not re.search(r"(?:https?:)?//\w", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    reader = Reader(html)
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in reader.all("img"))
    assert all(link["href"] == "data:," for link in reader.all("link"))
    assert not reader.all("script")
    assert "url(" not in html
    assert "@import" not in html


def test_policy_forbids_everything_but_own_style_and_pictures(html: str) -> None:
    (policy,) = [m["content"] for m in Reader(html).all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert " style=" not in html


def test_page_is_accessible_by_its_structure(html: str) -> None:
    reader = Reader(html)
    assert reader.all("html")[0]["lang"] == "en"
    assert len(reader.all("h1")) == len(reader.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels
    assert all(image["alt"] for image in reader.all("img"))
    assert all(cell.get("scope") in ("col", "row") for cell in reader.all("th"))
    ids = [str(a["id"]) for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))
    referred = {str(a["aria-labelledby"]) for _, a in reader.elements if "aria-labelledby" in a}
    assert referred <= set(ids)
    assert all(a.get("role") == "img" or a.get("aria-hidden") == "true" for a in reader.all("svg"))


@pytest.mark.parametrize("name", list(MODULES))
def test_page_without_rows_renders(name: str) -> None:
    html = MODULES[name].render(EMPTY[name])
    reader = Reader(html)
    assert "Empty" in reader.text
    assert "nan" not in reader.text.lower()
    assert "None" not in reader.text.replace("None failed", "")


def _hostile(value: Any) -> Any:
    """The same page with every free text replaced by one that attacks."""
    if isinstance(value, Picture):
        return dataclasses.replace(value, alt=HOSTILE, caption=HOSTILE, legend=())
    if isinstance(value, Link):
        return Link(value.href, HOSTILE, HOSTILE)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {f.name: _hostile(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "severity"}
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(_hostile(item) for item in value)
    return HOSTILE if isinstance(value, str) else value


def test_every_text_is_escaped(name: str, request: pytest.FixtureRequest) -> None:
    html = MODULES[name].render(_hostile(request.getfixturevalue(name)))
    reader = Reader(html)
    assert not reader.all("script")
    assert not [a for _, a in reader.elements if "onerror" in a or "onclick" in a]
    assert not [a for a in reader.all("img") if a["src"] == "x"]
    assert "alert(1)" in reader.text


@pytest.mark.parametrize(
    "href", ["https://example.org/", "//example.org", "/etc/passwd", "../x.html", "a/../../x", "javascript:x"]
)
def test_links_leave_the_folder_never(href: str, index_page: index.IndexPage) -> None:
    with pytest.raises(ValueError, match="relative path"):
        index.render(dataclasses.replace(index_page, links=(Link(href, "out"),)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uri": "https://example.org/x.png"}, "data URI"),
        ({"uri": "data:image/svg+xml;base64,AAAA"}, "data URI"),
        ({"alt": " "}, "alt text"),
    ],
)
def test_pictures_are_data_and_described(change: dict[str, str], message: str, scan_page: answers.AnswersPage) -> None:
    picture = dataclasses.replace(scan_page.pictures[0], **change)
    with pytest.raises(ValueError, match=message):
        answers.render(dataclasses.replace(scan_page, pictures=(picture,)))


def _text(render: Callable[[Any], str], page: Any) -> str:
    return Reader(render(page)).text


def test_report_shows_every_number(report_page: report.EvaluationPage) -> None:
    text = _text(report.render, report_page)
    for shown in (
        "0.861", "0.842–0.879", "0.641", "0.612–0.670", "0.912", "0.851–0.963", "0.733", "0.718", "0.824",
        "0.887", "0.415", "0.981", "0.971–0.991", "0.943", "1,312", "121", "0.008", "ECE 0.121", "0.222", "0.511",
        "median rank 4.5", "93 %", "88 %",
        "0 / 57", "not computable", "truth.csv", "240 in all",
    ):  # fmt: skip
        assert shown in text.replace("\u00a0", " "), shown


def test_report_ranks_the_forest_and_keeps_the_table_in_order(report_page: report.EvaluationPage) -> None:
    worse_first = dataclasses.replace(report_page, pairs=report_page.pairs[::-1])
    html = report.render(worse_first)
    forest, table = html[html.index("<svg") : html.index("</svg>")], html[html.index("<tbody>") :]
    assert forest.index(">Liver · Cyst<") < forest.index(">Spleen · Splenomegaly<") < forest.index(">Bronchi")
    assert table.index("Bronchiectasis") < table.index("Splenomegaly") < table.index(">Cyst")


def test_scan_shows_answers_and_refusals(scan_page: answers.AnswersPage) -> None:
    text = _text(answers.render, scan_page).replace("\u00a0", " ")
    for shown in (
        "93 %", "< 1 %", "Place 1 of 6", "calibrated", "not calibrated", "No answer", "The heart is cut off.", "0.71",
        "−0.11", "1,480.2", "−12", "cut off", "slice_gap", "1.6", "error", "3.0 × 3.0 × 3.0 mm",
    ):  # fmt: skip
        assert shown in text, shown


def test_scan_page_with_only_refusals_has_no_probability(scan_page: answers.AnswersPage) -> None:
    text = _text(answers.render, dataclasses.replace(scan_page, where=(), answers=scan_page.answers[-1:]))
    assert "%" not in text
    assert "No answer" in text


def test_many_answers_become_a_table_with_the_likeliest_first(scan_page: answers.AnswersPage) -> None:
    many = tuple(answers.AnswerRow(f"question {i}", "Liver", f"Cyst{i}", (i * 7 % 30) / 30) for i in range(30))
    page = dataclasses.replace(scan_page, answers=(scan_page.answers[-1], *many))
    text = _text(answers.render, page).replace("\u00a0", " ")
    shown = [int(share) for share in re.findall(r"(?<!highest: )Cyst\d+ (\d+) %", text)]
    assert len(shown) == 30
    assert shown == sorted(shown, reverse=True)
    assert "30 answers, organ by organ, most likely first; 1 without an answer" in text
    assert text.index("No answer. The heart is cut off.") > text.index("Cyst0 0 %")


def test_questions_keep_their_cards_beside_a_long_list(scan_page: answers.AnswersPage) -> None:
    listed = (
        answers.AnswerRow("anything?", organ, f"Finding {i}", 0.5, group=True)
        for organ in ("Liver", "Spleen")
        for i in range(20)
    )
    text = _text(answers.render, dataclasses.replace(scan_page, answers=(*scan_page.answers, *listed)))
    assert "Place 1 of 6" in text
    assert "40 answers, organ by organ" in text
    assert "Spleen 20 answers; highest: Finding 0" in text


def test_what_speaks_against_an_answer_stands_beside_it(scan_page: answers.AnswersPage) -> None:
    answer = answers.AnswerRow(
        "no gallstones", "Gallbladder", "Gallstone", 0.4, caveats=("outside what this model has seen",),
        remark="asked as its absence", threshold=0.31,
    )  # fmt: skip
    axial = scan_page.pictures[0]
    silent = answers.Where("Liver", "Cyst", 0.7, axial, None)
    page = dataclasses.replace(
        scan_page, answers=(answer,), where=(silent,), warnings=("This scan is far from training.",)
    )
    text = _text(answers.render, page).replace("\u00a0", " ")
    for shown in (
        "Outside what this model has seen", "not calibrated", "Asked as its absence", "Yes from 31 %",
        "This scan is far from training.", "No heat map: no place in the Liver adds to this answer",
    ):  # fmt: skip
        assert shown in text, shown
    assert text.index("This scan is far from training.") < text.index("40 %")
    compared = answers.AnswerRow("liver: It is large.", "Liver", "", None, 3, 19, similarity=0.54)
    text = _text(answers.render, dataclasses.replace(scan_page, answers=(compared,), where=()))
    assert "0.54 cosine similarity, no probability" in text
    assert "Nearer than all but 2 of the 18 sentences" in text
    assert "%" not in text


def test_quality_counts_and_groups_failures(quality_page: quality.QualityPage) -> None:
    text = _text(quality.render, quality_page)
    for shown in (
        "1,236",
        "of 1,240 handed in",
        "17 done",
        "4 failed",
        "image_truncated",
        "mask_grid",
        "1 without a value",
        "4,200",
    ):
        assert shown in text, shown
    assert text.index("image_truncated") < text.index("mask_grid")
    assert "s0000" in text
    assert "s0002" not in text


def test_pairs_mark_hard_negatives_once(pairs_page: pairs.PairsPage) -> None:
    text = _text(pairs.render, pairs_page)
    assert text.count("ruled out by the report") == 1
    assert text.index("Gallstones.") < text.index("ruled out") < text.index("A metastasis.")


def test_index_sums_the_steps_and_links(index_page: index.IndexPage) -> None:
    html = index.render(index_page)
    text = Reader(html).text.replace("\u00a0", " ")
    for shown in ("0.861", "0.571", "3 min 03 s", "0.62 s", "3 min 04 s", "93 %", "A simulated patient"):
        assert shown in text, shown
    assert 'href="report.html"' in html
    assert 'href="scans/one.html"' in html


def test_numpy_numbers_are_written_like_plain_ones(report_page: report.EvaluationPage) -> None:
    import numpy as np

    score = Interval(np.float32(0.861), np.float64(0.842), np.float32(0.879))  # pyright: ignore[reportArgumentType]
    assert report.render(dataclasses.replace(report_page, auroc=score)) == report.render(report_page)
    assert "–" in report.render(dataclasses.replace(report_page, auroc=Interval(float("nan"))))


def test_facts_keep_their_order(scan_page: answers.AnswersPage) -> None:
    text = _text(
        answers.render, dataclasses.replace(scan_page, facts=tuple(Fact(f"name{i}", f"value{i}") for i in (3, 1, 2)))
    )
    assert text.index("name3 value3") < text.index("name1 value1") < text.index("name2 value2")


def test_a_comparison_says_who_is_better(compare_page: compare.Comparison) -> None:
    text = _text(compare.render, compare_page)
    assert "organs is better on these patients" in text
    assert "p <\u00a00.001" in text.replace("< 0.001", "<\u00a00.001")
    turned = dataclasses.replace(compare_page, macro_difference=Interval(-0.2, -0.3, -0.1), p_value=0.02)
    assert "whole-scans is better on these patients" in _text(compare.render, turned)
    alike = dataclasses.replace(compare_page, macro_difference=Interval(0.0, -0.1, 0.1), p_value=0.9)
    assert "cannot be told apart" in _text(compare.render, alike)
