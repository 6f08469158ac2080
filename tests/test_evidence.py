"""Figures of the pages are those of the JSON that runs wrote."""

from __future__ import annotations

import re

import pytest

from ctglip.files import read_json
from experiments.evidence import __main__ as evidence


@pytest.mark.parametrize("page", evidence.PAGES)
def test_tables_of_a_page_are_made_of_the_figures(page: str) -> None:
    text = (evidence.ROOT / page).read_text(encoding="utf-8")
    assert evidence.rendered(text) == text, f"python -m experiments.evidence pages writes {page} anew"


def test_every_table_stands_in_a_page_and_another_figure_is_noticed() -> None:
    pages = {page: (evidence.ROOT / page).read_text(encoding="utf-8") for page in evidence.PAGES}
    named = {name for text in pages.values() for name in re.findall(r"<!-- figures: ([\w-]+) -->", text)}
    assert named == evidence.TABLES.keys()
    changed = re.sub(r"0\.\d{3}", "0.999", pages["README.md"], count=0)
    assert evidence.rendered(changed) != changed
    with pytest.raises(KeyError):
        evidence.rendered("<!-- figures: invented -->\n<!-- end of figures -->")


def test_missed_aims_are_told_as_missed() -> None:
    found = read_json(evidence.FIGURES / "ladder.json")
    told = "\n".join(evidence.ladder_table(found))
    for aim in found["aims"]:
        state = {None: "not judged yet", True: "met", False: "missed"}[aim["met"]]
        assert f"{aim['aim']}: {state}" in told
