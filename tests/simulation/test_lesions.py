from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ctglip.simulation.labels import numbers_of
from ctglip.simulation.lesions import KINDS
from ctglip.simulation.scene import Lesion
from ctglip.simulation.study import SimulatedStudy, SimulationSettings, simulate_study
from ctglip.vocabulary.abnormalities import load_abnormalities

Twins = Callable[..., SimulatedStudy]


def _inside(study: SimulatedStudy, lesion: Lesion, share: float = 0.6) -> np.ndarray:
    """Voxels within a share of a lesion's radius."""
    axes = [
        np.arange(n) * study.scan.spacing_mm[0] + o
        for n, o in zip(study.scan.hu.shape, study.scan.affine[:3, 3], strict=True)
    ]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    return sum((g - c) ** 2 for g, c in zip(grid, lesion.centre_mm, strict=True)) < (share * lesion.radius_mm) ** 2 + 3


def _organ(study: SimulatedStudy, organ: str) -> np.ndarray:
    return np.isin(study.labels.labels, numbers_of(organ))


def _volume(study: SimulatedStudy, organ: str) -> float:
    return float(_organ(study, organ).sum())


def test_every_pair_is_in_the_dictionary() -> None:
    known = set(load_abnormalities().pairs())
    assert [kind.pair for kind in KINDS if (kind.organ, kind.abnormality) not in known] == []
    assert len({kind.pair for kind in KINDS}) == len(KINDS) >= 16


def test_truth_says_what_is_in_the_image(twins: Twins) -> None:
    healthy = twins()
    assert not any(healthy.truth.values())
    assert healthy.lesions == ()
    ill = twins("liver:liver_cyst", "kidney_left:renal_cyst")
    assert {pair for pair, here in ill.truth.items() if here} == {"liver:liver_cyst", "kidney_left:renal_cyst"}
    assert {lesion.abnormality for lesion in ill.lesions} == {"liver_cyst", "renal_cyst"}


@pytest.mark.parametrize(
    ("pair", "low", "high"),
    [
        ("liver:liver_cyst", -5, 20),
        ("liver:liver_metastasis", 8, 42),
        ("kidney_left:renal_cyst", -10, 22),
        ("kidney_right:hydronephrosis", -8, 22),
        ("gallbladder:gallstone", 70, 600),
        ("kidney_left:renal_stone", 150, 1200),
        ("urinary_bladder:bladder_stone", 250, 1000),
        ("lung_right:lung_nodule", -60, 90),
        ("lung_left:consolidation", -520, 60),
        ("pleura_left:pleural_effusion", -20, 40),
    ],
)
def test_density_inside_a_lesion(twins: Twins, pair: str, low: float, high: float) -> None:
    healthy, ill = twins(), twins(pair)
    assert ill.truth[pair] == 1
    lesion = max(ill.lesions, key=lambda m: m.radius_mm)
    organ = pair.split(":")[0]
    lung = _organ(healthy, "lung_left")
    where = lung & ~_organ(ill, "lung_left") if organ == "pleura_left" else _inside(ill, lesion) & _organ(ill, organ)
    value, before = np.median(ill.scan.hu[where]), np.median(healthy.scan.hu[where])
    assert low < value < high
    assert abs(value - before) > 8


def test_steatosis_darkens_the_whole_liver_but_not_the_spleen(twins: Twins) -> None:
    healthy, ill = twins(), twins("liver:hepatic_steatosis")
    for organ, least, most in (("liver", 22, 60), ("spleen", -1, 1)):
        where = _organ(healthy, organ)
        assert least < np.median(healthy.scan.hu[where]) - np.median(ill.scan.hu[where]) < most


def test_emphysema_makes_holes_in_the_lungs(twins: Twins) -> None:
    healthy, ill = twins(), twins("lungs:emphysema")
    lungs = _organ(healthy, "lungs")
    assert (ill.scan.hu[lungs] < -945).mean() > (healthy.scan.hu[lungs] < -945).mean() + 0.05


def test_calcification_lies_on_the_wall_of_the_aorta(twins: Twins) -> None:
    healthy, ill = twins(), twins("aorta:aortic_calcification")
    aorta = _organ(healthy, "aorta")
    assert (ill.scan.hu[aorta] > 200).sum() > (healthy.scan.hu[aorta] > 200).sum() + 20


@pytest.mark.parametrize(
    ("pair", "organ", "least", "most"),
    [
        ("spleen:splenomegaly", "spleen", 1.6, 3.8),
        ("heart:cardiomegaly", "heart", 1.3, 2.3),
        ("aorta:aortic_aneurysm", "aorta", 1.08, 2.2),
        ("lumbar_spine:compression_fracture", "lumbar_spine", 0.8, 0.985),
        ("pleura_right:pleural_effusion", "lung_right", 0.55, 0.96),
        ("pericardium:pericardial_effusion", "heart", 0.999, 1.001),
    ],
)
def test_size_abnormalities_change_the_masks(twins: Twins, pair: str, organ: str, least: float, most: float) -> None:
    assert least < _volume(twins(pair), organ) / _volume(twins(), organ) < most


@pytest.mark.parametrize(
    "pair",
    [
        "liver:hepatic_steatosis", "liver:liver_cyst", "liver:liver_metastasis", "gallbladder:gallstone",
        "kidney_left:renal_stone", "kidney_right:renal_cyst", "kidney_left:hydronephrosis", "lungs:emphysema",
        "lung_left:lung_nodule", "lung_right:consolidation", "aorta:aortic_calcification",
        "urinary_bladder:bladder_stone",
    ],
)  # fmt: skip
def test_texture_lesions_leave_the_masks_alone(twins: Twins, pair: str) -> None:
    assert twins(pair).truth[pair] == 1
    assert np.array_equal(twins(pair).labels.labels, twins().labels.labels)


def test_a_fracture_is_lower_in_front_and_denser(twins: Twins) -> None:
    healthy, ill = twins(), twins("lumbar_spine:compression_fracture")
    (lesion,) = ill.lesions
    before, after = _organ(healthy, lesion.organ), _organ(ill, lesion.organ)
    assert after.sum() < 0.95 * before.sum()
    assert np.median(ill.scan.hu[after]) > np.median(healthy.scan.hu[before]) + 20


def test_one_lesion_does_not_move_another(twins: Twins) -> None:
    alone = twins("liver:liver_cyst").lesions
    together = twins("liver:liver_cyst", "gallbladder:gallstone").lesions
    assert alone == tuple(m for m in together if m.abnormality == "liver_cyst")


def test_lesions_stand_out_with_contrast_too() -> None:
    settings = SimulationSettings(bodies=1, contrast=1, noise_hu=(4, 4.001))
    study = simulate_study(4, 0, settings, pairs=["kidney_left:renal_cyst", "liver:liver_metastasis"])
    for abnormality, organ in (("renal_cyst", "kidney_left"), ("liver_metastasis", "liver")):
        lesion = next(m for m in study.lesions if m.abnormality == abnormality)
        assert np.median(study.scan.hu[_organ(study, organ)]) - np.median(study.scan.hu[_inside(study, lesion)]) > 20
