"""Kinds of torsos: each is what its plan says, unlike the others; pairs are judged where organs stand whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ctglip.errors import CTGLIPError
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.lesions import possible_kinds
from ctglip.simulation.levels import comparable_pairs, level_settings
from ctglip.simulation.study import SimulationSettings, anatomy_of, simulate_study
from ctglip.simulation.torso import body_plans, built_in_anatomy

KINDS = ("child", "obese", "scoliotic", "long_chest", "missing_organs")


@pytest.fixture(scope="module")
def bodies(torso: Anatomy) -> dict[str, Anatomy]:
    return {"standard": torso, **{kind: built_in_anatomy(0, False, kind) for kind in KINDS}}


def _width_mm(body: Anatomy) -> float:
    return float((body.hu > -500).any((1, 2)).sum() * body.spacing_mm[0])


def _centre(body: Anatomy, organ: str) -> np.ndarray:
    position = body.position(organ)
    assert position is not None
    return position[0]


def test_plans_are_shipped_and_dealt_out_evenly(bodies: dict[str, Anatomy]) -> None:
    assert set(body_plans()) == set(bodies)
    settings = level_settings("hard")
    assert len(settings.anatomies) >= 5
    assert settings.bodies % len(settings.anatomies) == 0
    few = settings.model_copy(update={"anatomies": ("standard", "child"), "bodies": 2})
    seen = {anatomy_of(0, index, few).kind for index in range(12)}
    assert seen == {"standard", "child"}


def test_each_body_is_what_its_plan_says(bodies: dict[str, Anatomy]) -> None:
    standard = bodies["standard"]
    assert bodies["child"].volume_ml("liver") < 0.6 * standard.volume_ml("liver")
    assert bodies["child"].age[1] < 18
    assert _width_mm(bodies["obese"]) > 1.25 * _width_mm(standard)
    assert bodies["long_chest"].volume_ml("lungs") > 1.4 * standard.volume_ml("lungs")
    levels = [f"vertebrae_{level}" for level in ("T2", "T5", "T8", "T11", "L2", "L4")]
    sway = {name: np.ptp([_centre(body, level)[0] for level in levels]) for name, body in bodies.items()}
    assert sway["scoliotic"] > 35
    assert max(value for name, value in sway.items() if name != "scoliotic") < 5
    missing = bodies["missing_organs"]
    assert all(missing.volume_ml(organ) == 0 for organ in ("kidney_left", "spleen", "gallbladder"))
    assert missing.volume_ml("kidney_right") > 1.15 * standard.volume_ml("kidney_right")


@pytest.mark.parametrize("kind", KINDS)
def test_bodies_stay_human(bodies: dict[str, Anatomy], kind: str) -> None:
    body = bodies[kind]
    assert body.labels.shape == body.hu.shape
    assert body.tissue is not None
    assert body.tissue.shape == body.hu.shape
    assert _centre(body, "liver")[0] > _centre(body, "stomach")[0]
    assert _centre(body, "heart")[2] > _centre(body, "liver")[2] > _centre(body, "urinary_bladder")[2]
    assert len(possible_kinds(body)) >= 20
    assert body.volume_ml("lungs") > 1000


def test_pairs_are_judged_where_the_organ_stands_whole_in_both(bodies: dict[str, Anatomy]) -> None:
    training = [bodies["standard"], bodies["obese"]]
    everything = comparable_pairs(bodies["standard"], [bodies["obese"]])
    assert len(everything) == 25
    assert "kidney_left:renal_cyst" not in comparable_pairs(bodies["missing_organs"], training)
    assert "kidney_right:renal_cyst" in comparable_pairs(bodies["missing_organs"], training)
    assert "gallbladder:gallstone" not in comparable_pairs(bodies["standard"], [bodies["missing_organs"]])
    top = int(_centre(bodies["standard"], "liver")[2] / 2.5)
    cut = replace(bodies["standard"], hu=bodies["standard"].hu[..., :top], labels=bodies["standard"].labels[..., :top])
    pairs = comparable_pairs(cut, training)
    assert not [pair for pair in pairs if pair.startswith(("liver:", "aorta:"))]
    assert "urinary_bladder:bladder_stone" in pairs


def test_an_unknown_anatomy_is_named() -> None:
    with pytest.raises(CTGLIPError, match=r"'giant'.*child"):
        simulate_study(0, 0, SimulationSettings(anatomies=("giant",)))


def test_habitus_spreads_patients() -> None:
    def spread(habitus: float) -> float:
        settings = SimulationSettings(bodies=1, spacing_mm=10, second_studies=0, habitus=habitus)
        sizes = [simulate_study(0, index, settings, pairs=()).scan.hu.shape[2] for index in range(16)]
        return float(np.std(sizes))

    assert spread(2.0) > 1.4 * spread(1.0)
