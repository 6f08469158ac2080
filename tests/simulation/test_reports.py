from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from ctglip.reports.parser import get_parser
from ctglip.reports.sections import split_sections
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.lesions import KINDS
from ctglip.simulation.lesions_size import LEVELS
from ctglip.simulation.lungs import LOBES
from ctglip.simulation.reader import Reading
from ctglip.simulation.reports import ReportRates, wording, write_report
from ctglip.simulation.scene import Lesion
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.evidence import organ_evidence
from ctglip.vocabulary.organs import load_organs
from ctglip.vocabulary.prompts import negative_prompts, normal_prompts, positive_prompts

Truth = dict[str, int]


def _patient(seed: int) -> tuple[Truth, dict[str, list[Lesion]], np.random.Generator]:
    """Truth and made-up lesions, without an image."""
    rng = np.random.default_rng(seed)
    truth = {kind.pair: int(rng.random() < 0.25) for kind in KINDS}
    details = {"pleural_effusion": ("small", "moderate", "large")}
    lesions: dict[str, list[Lesion]] = {}
    for kind in KINDS:
        choices = details.get(kind.abnormality, ("",))
        if kind.organ in LEVELS:
            choices = LEVELS[kind.organ]
        elif kind.organ in ("lung_left", "lung_right"):
            choices = LOBES[kind.organ.removeprefix("lung_")]
        count = 1 if kind.organ in LEVELS else int(rng.integers(1, 4))
        if truth[kind.pair]:
            lesions[kind.pair] = [
                Lesion(kind.abnormality, kind.organ, (0, 0, 0), float(rng.uniform(4, 70)), str(rng.choice(choices)))
                for _ in range(count)
            ]
    return truth, lesions, rng


def _sentences(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _sentences(value)
    elif isinstance(node, list):
        for value in node:
            yield from _sentences(value)


def _plain(sentence: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", sentence.lower()))


def test_no_sentence_is_one_of_the_dictionarys() -> None:
    abnormalities, organs = load_abnormalities(), load_organs()
    theirs: set[str] = set()
    for organ, name in abnormalities.pairs():
        entry = abnormalities[name]
        theirs |= {_plain(text) for text in positive_prompts(entry, organs[organ])}
        theirs |= {_plain(text) for text in negative_prompts(entry, organs[organ])}
    theirs |= {_plain(text) for organ in organs.names for text in normal_prompts(organs[organ])}
    slots = {"size": "24 mm", "lobe": "left upper lobe", "level": "L1", "amount": "small", "region": "lumbar"}
    slots["density"] = "solid"
    ours = {
        _plain(text.format(**slots, side=side))
        for group in ("findings", "normal")
        for text in _sentences(wording()[group])
        for side in ("left", "right")
    }
    assert ours & theirs == set()
    assert len(ours) > 200


def test_the_parser_reads_the_reports_back(torso: Anatomy) -> None:
    organs, abnormalities, parser = load_organs(), load_abnormalities(), get_parser()
    asked, wrong = 0, []
    for seed in range(100):
        truth, lesions, rng = _patient(seed)
        rows = parser.parse(write_report(Reading(truth, lesions), torso, ReportRates(affirm=1), rng))
        for pair, here in truth.items():
            organ, name = pair.split(":")
            affirmed = organ_evidence(rows, organ, organs, abnormalities).affirmed
            asked += 1
            if bool({name, *abnormalities.descendants(name)} & affirmed.keys()) != bool(here):
                wrong.append((pair, here, [row.sentence for row in rows if row.abnormality == name]))
    assert len(wrong) <= 0.03 * asked, "\n".join(map(str, wrong[:20]))


def test_only_what_is_absent_is_denied(torso: Anatomy) -> None:
    for seed in range(30):
        truth, lesions, rng = _patient(seed)
        text = write_report(Reading(truth, lesions), torso, ReportRates(deny=1, normal=0, asides=0), rng)
        for sentence in re.split(r"(?<=[.;])\s+", text):
            denied = re.search(r"\b(no|not|neither|free of)\b", sentence, re.IGNORECASE)
            if not denied:
                continue
            kinds = [kind for kind in KINDS if _is_from(sentence, kind.abnormality)]
            sided = [kind for kind in kinds if re.search(r"\bleft\b|\bright\b|lumbar|thoracic", sentence)]
            if sided:
                kinds = [kind for kind in kinds if _names(sentence, kind.organ)]
            assert not any(truth[kind.pair] for kind in kinds), sentence


def _is_from(sentence: str, abnormality: str) -> bool:
    words = wording()["findings"][abnormality]
    texts = [*words["none"], *words.get("none_side", ())]
    patterns = [re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(text)) for text in texts]
    return any(re.fullmatch(pattern, sentence, re.IGNORECASE) for pattern in patterns)


def _names(sentence: str, organ: str) -> bool:
    return any(word in sentence.lower() for word in ("left", "right", "lumbar", "thoracic") if word in organ)


def test_rates_say_how_much_is_told(torso: Anatomy) -> None:
    truth, lesions, rng = _patient(3)
    silent = write_report(Reading(truth, lesions), torso, ReportRates(affirm=0, deny=0, normal=0, asides=0), rng)
    sections = split_sections(silent)
    assert sections.findings in wording()["nothing"]
    assert sections.impression == "See findings."
    denied = write_report(Reading(dict.fromkeys(truth, 0), {}), torso, ReportRates(deny=1), rng)
    assert split_sections(denied).impression in wording()["nothing"]


def test_sizes_and_sides_are_those_of_the_lesions(torso: Anatomy) -> None:
    truth = {"kidney_left:renal_stone": 1, "kidney_right:renal_stone": 0}
    lesion = Lesion("renal_stone", "kidney_left", (0, 0, 0), 5.5)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        reading = Reading(truth, {"kidney_left:renal_stone": [lesion]})
        text = write_report(reading, torso, ReportRates(affirm=1, deny=0), rng)
        findings = split_sections(text).findings or ""
        assert re.search(r"\b11 mm|1\.1 cm", findings)
        assert "left" in findings
        assert not re.search(r"\ba 11\b", findings, re.IGNORECASE)


@pytest.mark.parametrize("contrast", [True, False])
def test_the_technique_names_the_phase(torso: Anatomy, contrast: bool) -> None:
    anatomy = Anatomy(torso.hu, torso.labels, torso.spacing_mm, "x", "portal" if contrast else "native")
    text = write_report(Reading({"liver:liver_cyst": 0}, {}), anatomy, ReportRates(), np.random.default_rng(0))
    assert ("portal venous" in (split_sections(text).technique or "")) == contrast
