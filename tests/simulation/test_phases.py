"""Contrast phases change the HU of organs as the table says, in built-in and in real bodies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.labels import number
from ctglip.simulation.phases import PHASES, Phase, PhaseSettings, in_phase
from ctglip.simulation.study import SimulationSettings, simulate_study

EXPECTED = {  # native, portal, arterial
    "liver": (57, 112, 70),
    "spleen": (49, 122, 130),
    "aorta": (42, 152, 310),
    "heart": (42, 140, 220),
    "portal_vein_and_splenic_vein": (40, 148, 115),
    "pancreas": (40, 95, 110),
    "urinary_bladder": (6, 8, 6),
}


@pytest.mark.parametrize("organ", EXPECTED)
def test_organs_have_the_hu_of_their_phase(torso: Anatomy, organ: str) -> None:
    for phase, expected in zip(PHASES, EXPECTED[organ], strict=True):
        body = in_phase(torso, phase)
        hu = np.median(body.hu[body.labels == number(organ)])
        assert hu == pytest.approx(expected, abs=12 + 0.06 * abs(expected)), phase
        assert body.contrast == (phase != "native")


def test_arterial_kidneys_have_a_cortex(torso: Anatomy) -> None:
    def spread(phase: Phase) -> float:
        body = in_phase(torso, phase)
        hu = body.hu[body.labels == number("kidney_right")]
        return float(np.quantile(hu, 0.85) - np.quantile(hu, 0.15))

    assert spread("arterial") > 50
    assert spread("portal") < 40


def test_vessels_without_a_label_enhance_too(torso: Anatomy) -> None:
    lung = np.isin(torso.labels, (10, 11, 12, 13, 14))
    native, arterial = (in_phase(torso, phase).hu[lung] for phase in ("native", "arterial"))
    assert (arterial > 120).sum() > 200
    assert (native > 120).sum() == 0
    assert np.median(arterial) == pytest.approx(np.median(native), abs=1)


def test_a_real_native_body_enhances_by_its_masks(torso: Anatomy) -> None:
    real = replace(torso, tissue=None, kind="template")
    portal = in_phase(real, "portal")
    assert np.median(portal.hu[portal.labels == number("liver")]) == pytest.approx(112, abs=6)
    assert portal.hu[portal.labels == 0].mean() == pytest.approx(real.hu[real.labels == 0].mean(), abs=1)


def test_studies_come_in_phases_at_their_shares() -> None:
    shares: dict[Phase, float] = {"native": 0.5, "arterial": 0.25, "portal": 0.25}
    settings = SimulationSettings(phases=PhaseSettings(shares=shares))
    rng = np.random.default_rng(0)
    drawn = [settings.phases.draw(rng) for _ in range(2000)]
    for phase, share in shares.items():
        assert drawn.count(phase) / 2000 == pytest.approx(share, abs=4 * (share * (1 - share) / 2000) ** 0.5)
    assert SimulationSettings().phases.draw(rng) is None


def test_phases_and_timing_reach_the_scan() -> None:
    def liver(phase: Phase, timing: float, index: int = 0) -> float:
        phases = PhaseSettings(shares={phase: 1}, timing=timing)
        settings = SimulationSettings(bodies=1, spacing_mm=6, noise_hu=(1, 1.001), organ_hu=0, phases=phases)
        study = simulate_study(0, index, settings, pairs=())
        assert study.about["phase"] == phase
        return float(np.median(study.scan.hu[study.labels.labels == number("liver")]))

    assert liver("portal", 0) - liver("native", 0) == pytest.approx(55, abs=4)
    assert liver("arterial", 0) - liver("native", 0) == pytest.approx(13, abs=4)
    strengths = [liver("portal", 0.2, index) for index in range(8)]
    assert np.std(strengths) > 4
    assert np.std([liver("portal", 0, index) for index in range(8)]) < 2


def test_timing_acts_on_bodies_that_were_painted_in_a_phase() -> None:
    def spread(timing: float) -> float:
        settings = SimulationSettings(
            bodies=1, contrast=1, spacing_mm=8, noise_hu=(1, 1.001), organ_hu=0, phases=PhaseSettings(timing=timing)
        )
        studies = [simulate_study(0, index, settings, pairs=()) for index in range(8)]
        return float(np.std([np.median(one.scan.hu[one.labels.labels == number("liver")]) for one in studies]))

    assert spread(0.2) > 4 > 2 > spread(0)
