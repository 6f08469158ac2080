"""A user's own dictionaries, smaller than the shipped ones, are read with the same rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctglip.config import parse_yaml
from ctglip.reports.parser import ReportParser
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs

SENTENCES = [
    case["text"] for case in parse_yaml(Path(__file__).with_name("adversarial.yaml").read_text(encoding="utf-8"))
]
ENTRY = """\
version: 1
abnormalities:
  {name}:
    display: {display}
    organs: [{organ}]
    synonyms: []
    positive: ["There is a {display}.", "A {display} is seen.", "{display} of the {{organ}}."]
    negative: ["There is no {display}.", "No {display} is seen.", "No {display} of the {{organ}}."]
    ct_appearance: It can be seen.
"""
ORGANS = """\
version: 1
organs:
  liver: {display: liver, group: liver, label: 5, adjectives: [hepatic]}
  kidneys: {display: kidneys, plural: true, group: kidneys, parts: [kidney_left, kidney_right], adjectives: [renal]}
  kidney_left: {display: left kidney, side: left, label: 3, group: kidneys, synonyms: [left kidney]}
  kidney_right: {display: right kidney, side: right, label: 2, group: kidneys, synonyms: [right kidney]}
"""


def _parser(folder: Path, name: str, organ: str, organs: OrganDictionary) -> ReportParser:
    path = folder / "abnormalities.yaml"
    path.write_text(ENTRY.format(name=name, display=name.replace("_", " "), organ=organ))
    return ReportParser(organs, load_abnormalities(path, organs))


@pytest.mark.parametrize(("name", "organ"), [("gallstone", "gallbladder"), ("lung_nodule", "lungs")])
def test_one_abnormality_is_enough(tmp_path: Path, name: str, organ: str) -> None:
    parser = _parser(tmp_path, name, organ, load_organs())
    for sentence in SENTENCES:
        named = {row.abnormality for row in parser.parse(sentence)}
        assert named <= {None, name}
    found = parser.parse(f"A {name.replace('_', ' ')} is seen.")
    assert [(row.abnormality, row.status) for row in found] == [(name, "affirmed")]


def test_two_organs_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "organs.yaml"
    path.write_text(ORGANS)
    organs = load_organs(path)
    parser = _parser(tmp_path, "liver_cyst", "liver", organs)
    for sentence in SENTENCES:
        assert {row.organ for row in parser.parse(sentence)} <= {None, *organs.names}
    (row,) = parser.parse("No cyst in the liver.")
    assert (row.organ, row.abnormality, row.status) == ("liver", "liver_cyst", "negated")
