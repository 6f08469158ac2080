"""Studies deformed from a real CT (patient A: native abdomen and pelvis)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ctglip.simulation.anatomy import load_template
from ctglip.simulation.cohort import simulate_cohort
from ctglip.simulation.labels import number
from ctglip.simulation.levels import comparable_pairs, level_settings
from ctglip.simulation.study import SimulationSettings, simulate_study
from ctglip.simulation.torso import built_in_anatomy

DATA = Path(os.environ.get("CTGLIP_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
PATIENT_A = DATA / "ct" / "patient_a_abdomen"
TEMPLATE = (PATIENT_A / "ct.nii.gz", PATIENT_A / "totalsegmentator_v2.nii.gz")
pytestmark = pytest.mark.skipif(not TEMPLATE[0].is_file(), reason=f"no real data in {DATA}")


def test_patient_a_as_a_template() -> None:
    template = load_template(*TEMPLATE)
    healthy = simulate_study(0, 0, SimulationSettings(), template, pairs=())
    assert "liver:liver_cyst" in healthy.truth
    assert "heart:cardiomegaly" not in healthy.truth
    assert "lungs:emphysema" not in healthy.truth
    kidney = healthy.labels.labels == number("kidney_left")
    assert healthy.scan.hu[kidney].max() < 250  # her own stones are gone
    ill = simulate_study(0, 0, SimulationSettings(), template, pairs=["liver:hepatic_steatosis", "spleen:splenomegaly"])
    liver, spleen = (healthy.labels.labels == number(organ) for organ in ("liver", "spleen"))
    assert np.median(healthy.scan.hu[liver]) - np.median(ill.scan.hu[liver]) > 15
    assert (ill.labels.labels == number("spleen")).sum() > 1.4 * spleen.sum()


def test_a_cohort_from_patient_a(tmp_path: Path) -> None:
    simulate_cohort(tmp_path, 2, seed=1, template=TEMPLATE)
    assert (tmp_path / "montage.png").stat().st_size > 50_000


def test_patient_a_at_the_hard_level() -> None:
    template = load_template(*TEMPLATE)
    settings = level_settings("hard")
    studies = [simulate_study(4, index, settings, template, pairs=()) for index in range(4)]
    assert {study.about["anatomy"] for study in studies} == {"template"}
    aorta: dict[str, list[float]] = {"native": [], "arterial": [], "portal": []}
    for study in studies:
        inside = study.labels.labels == number("aorta")
        aorta[study.about["phase"]].append(float(np.median(study.scan.hu[inside])))
    assert max(aorta["native"]) < 80 < 150 < min(aorta["arterial"])


def test_pairs_judged_on_patient_a_are_those_of_her_whole_organs() -> None:
    pairs = comparable_pairs(load_template(*TEMPLATE), [built_in_anatomy(0, False)])
    assert "kidney_left:renal_stone" in pairs
    assert not [pair for pair in pairs if pair.startswith(("liver:", "spleen:", "aorta:", "heart:", "lung"))]
