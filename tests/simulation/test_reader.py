"""Errors of reports: at their rates, known in a table, and readable (or not) by the parser as they are meant."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ctglip.reports.parser import get_parser
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.lesions import KINDS
from ctglip.simulation.levels import level_settings
from ctglip.simulation.lungs import LOBES
from ctglip.simulation.reader import ReaderSettings, Reading, read, slips
from ctglip.simulation.reports import ReportRates, operations, wording, write_report
from ctglip.simulation.scene import Lesion
from ctglip.simulation.torso import built_in_anatomy

HARD = level_settings("hard").reader
TALKATIVE = ReportRates(affirm=1, deny=0, normal=0, asides=0, conclude=0)


def _patient(seed: int, radius: float = 9.0) -> tuple[dict[str, int], dict[str, list[Lesion]]]:
    rng = np.random.default_rng(seed)
    truth = {kind.pair: int(rng.random() < 0.25) for kind in KINDS}
    return truth, {pair: _one(pair, radius) for pair, present in truth.items() if present}


def _one(pair: str, radius: float = 9.0) -> list[Lesion]:
    organ, abnormality = pair.split(":")
    detail = {"pleural_effusion": "small", "compression_fracture": "T10"}.get(abnormality, "")
    if organ.startswith("lung_"):
        detail = LOBES[organ.removeprefix("lung_")][0]
    return [Lesion(abnormality, organ, (0, 0, 0), radius, detail)]


def test_a_faultless_reader_believes_the_truth() -> None:
    truth, lesions = _patient(0)
    reading = read(truth, lesions, ReaderSettings(), np.random.default_rng(0))
    assert reading == Reading(truth, lesions)


def _near(found: int, asked: int, share: float) -> bool:
    return abs(found / asked - share) <= 4 * (share * (1 - share) / asked) ** 0.5


def test_errors_have_their_rates() -> None:
    counts, there, absent, told, mentioned = Counter[str](), 0, 0, 0, 0
    for seed in range(500):
        truth, lesions = _patient(seed)
        reading = read(truth, lesions, HARD, np.random.default_rng(seed))
        errors = Counter(error for _, error in reading.departures)
        counts += errors
        there += sum(truth.values())
        absent += len(truth) - sum(truth.values())
        told += sum(truth.values()) - errors["overlooked"]
        mentioned += sum(truth.values()) - errors["overlooked"] - errors["silent"]
    assert _near(counts["overlooked"], there, HARD.overlook)
    assert _near(counts["invented"], absent, HARD.invent)
    assert _near(counts["silent"], told, HARD.silent)
    assert _near(counts["hedged"], mentioned, HARD.hedge)
    assert 0 < counts["wrong_side"] < there * HARD.wrong_side


def test_small_lesions_are_overlooked_more_often() -> None:
    def overlooked(radius: float) -> tuple[int, int]:
        found = there = 0
        for seed in range(150):
            truth, lesions = _patient(seed, radius)
            found += sum(
                e == "overlooked" for _, e in read(truth, lesions, HARD, np.random.default_rng(seed)).departures
            )
            there += sum(truth.values())
        return found, there

    assert _near(*overlooked(3.0), HARD.overlook_small)
    assert _near(*overlooked(6.0), HARD.overlook)


def test_the_wrong_side_is_told() -> None:
    truth = {
        "kidney_left:renal_stone": 1,
        "kidney_right:renal_stone": 0,
        "lung_right:lung_nodule": 1,
        "lung_left:lung_nodule": 0,
    }
    lesions = {
        "kidney_left:renal_stone": [Lesion("renal_stone", "kidney_left", (0, 0, 0), 4)],
        "lung_right:lung_nodule": [Lesion("lung_nodule", "x", (0, 0, 0), 4, "lung_middle_lobe_right")],
    }
    reading = read(truth, lesions, ReaderSettings(wrong_side=1), np.random.default_rng(0))
    assert reading.truth == {pair: 1 - there for pair, there in truth.items()}
    assert reading.lesions["lung_left:lung_nodule"][0].detail == "lung_upper_lobe_left"
    assert set(reading.departures) == {
        ("kidney_left:renal_stone", "wrong_side"),
        ("lung_right:lung_nodule", "wrong_side"),
    }
    assert truth["kidney_left:renal_stone"] == 1


@pytest.mark.parametrize("pair", [kind.pair for kind in KINDS])
def test_doubt_is_read_as_doubt(torso: Anatomy, pair: str) -> None:
    parser = get_parser()
    doubted = 0
    reading = Reading({pair: 1}, {pair: _one(pair)}, hedged=frozenset({pair}))
    for seed in range(6):
        report = write_report(reading, torso, TALKATIVE, np.random.default_rng(seed))
        rows = [row for row in parser.parse(report) if row.section == "findings" and row.abnormality]
        assert not any(row.status == "absent" for row in rows), report
        doubted += any(row.status == "uncertain" for row in rows)
    assert doubted >= 5


def test_the_silent_say_nothing(torso: Anatomy) -> None:
    pair = "liver:liver_cyst"
    reading = Reading({pair: 1}, {pair: _one(pair)}, silent=frozenset({pair}))
    rates = ReportRates(affirm=1, deny=1, normal=1, asides=0)
    report = write_report(reading, torso, rates, np.random.default_rng(0))
    assert "cyst" not in report.lower()
    assert "liver" not in report.lower()


def test_an_overlooked_organ_may_be_called_normal(torso: Anatomy) -> None:
    pair = "liver:liver_cyst"
    reading = read({pair: 1}, {pair: _one(pair)}, ReaderSettings(overlook=1), np.random.default_rng(0))
    report = write_report(reading, torso, ReportRates(normal=1, deny=0, asides=0), np.random.default_rng(0))
    assert any(sentence in report for sentence in wording()["normal"]["liver"])


def test_operations_are_told_of_removed_organs(torso: Anatomy) -> None:
    rng = np.random.default_rng(0)
    assert operations(torso, 1, rng) == ()
    removed = built_in_anatomy(0, False, "missing_organs")
    assert len(operations(removed, 1, rng)) == 3
    assert operations(removed, 0, rng) == ()
    reading = Reading({}, {}, history=operations(removed, 1, rng))
    report = write_report(reading, removed, TALKATIVE, rng)
    assert all(sentence in report for sentence in reading.history)


def test_slips_exchange_two_letters() -> None:
    text = "The gallbladder contains several calcified stones. " * 40
    assert slips(text, 0, np.random.default_rng(0)) == text
    slipped = slips(text, 0.1, np.random.default_rng(0))
    words, wrong = text.split(), slipped.split()
    changed = [(a, b) for a, b in zip(words, wrong, strict=True) if a != b]
    assert 8 <= len(changed) <= 32
    assert all(sorted(a) == sorted(b) and len(a) >= 6 for a, b in changed)
