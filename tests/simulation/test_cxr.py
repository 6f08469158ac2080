"""Simulated radiographs: geometry worked out by hand, known truth, boxes on what they name, texts that can be read
back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctglip.cohort import read_cohort
from ctglip.cxr.regions import read_regions, region_entries
from ctglip.errors import CTGLIPError
from ctglip.reports.parser import get_parser
from ctglip.simulation.cohort import simulate_cohort
from ctglip.simulation.cxr import CxrSettings, SimulatedCxr, chest_of, project, simulate_radiograph
from ctglip.simulation.labels import number
from ctglip.simulation.projection import BeamSettings, line_integrals, set_up
from ctglip.simulation.reader import Reading
from ctglip.simulation.study import SimulationSettings
from ctglip.simulation.torso import built_in_anatomy
from ctglip.types import LabelMap, Report, Scan
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.evidence import organ_evidence
from ctglip.vocabulary.organs import load_organs
from tests.label_frames import label_frame

ONE = SimulationSettings(bodies=1, contrast=0, noise_hu=(4, 4.001), second_studies=0)
STILL = CxrSettings(shift_mm=0, no_findings=0, no_impression=0)


@pytest.fixture(scope="module")
def healthy() -> SimulatedCxr:
    return simulate_radiograph(2, 0, ONE, STILL, pairs=())


def block() -> tuple[np.ndarray, np.ndarray]:
    """Air with a box of water, and lungs (labels) beside it: asymmetric in every direction."""
    hu = np.full((60, 40, 50), -1000, np.int16)
    hu[10:20, 5:35, 30:40] = 0
    labels = np.zeros(hu.shape, np.uint8)
    labels[6:54, 10:30, 5:45] = number("lung_upper_lobe_left")
    return hu, labels


@pytest.mark.parametrize("view", ["pa", "lateral"])
def test_water_attenuates_by_its_thickness_and_lies_where_it_should(view: str) -> None:
    hu, labels = block()
    beam = BeamSettings(pixel_mm=2, source_mm=20000, gap_mm=10)
    geometry = set_up(hu > -300, labels > 0, 4.0, view, beam, np.zeros(2))  # pyright: ignore[reportArgumentType]
    radiograph = line_integrals(hu, geometry, beam)
    thick = 30 if view == "pa" else 10
    assert radiograph.max() == pytest.approx(beam.mu_water * thick * 4, rel=0.03)
    rows, columns = np.nonzero(radiograph > 0.5 * radiograph.max())
    assert rows.mean() < radiograph.shape[0] / 2, "it is high in the body, so high on the radiograph"
    if view == "pa":
        assert columns.mean() > radiograph.shape[1] * 0.6, "small x is the patient's left, the picture's right"
    assert np.ptp(rows) * 4 == pytest.approx(10 * 4, abs=8), "a distant source does not enlarge"


def test_points_and_pixels_agree_and_a_near_source_enlarges() -> None:
    hu, labels = block()
    near = BeamSettings(pixel_mm=2, source_mm=800, gap_mm=50)
    geometry = set_up(hu > -300, labels > 0, 4.0, "pa", near, np.zeros(2))
    radiograph = line_integrals(hu, geometry, near)
    rows, columns = np.nonzero(radiograph > 0.5 * radiograph.max())
    middle = np.array([[14.5, 19.5, 34.5]]) * 4
    row, column = geometry.to_radiograph(middle)[0] / 2 - 0.25
    assert rows.mean() == pytest.approx(row, abs=1.0)
    assert columns.mean() == pytest.approx(column, abs=1.0)
    assert geometry.enlargement(middle[0]) > 1.1
    assert (np.ptp(columns) + 1) * 4 > 40 * 1.05


def test_the_same_seed_gives_the_same_radiograph(healthy: SimulatedCxr) -> None:
    again = simulate_radiograph(2, 0, ONE, STILL, pairs=())
    np.testing.assert_array_equal(again.radiograph.pixels, healthy.radiograph.pixels)
    assert again.report == healthy.report
    other = simulate_radiograph(3, 0, ONE, STILL, pairs=())
    assert (
        other.radiograph.pixels.shape != healthy.radiograph.pixels.shape
        or (other.radiograph.pixels != healthy.radiograph.pixels).any()
    )


def test_boxes_lie_on_what_they_name(healthy: SimulatedCxr) -> None:
    pixels = healthy.radiograph.pixels.astype(float)
    boxes = {region.name: region for region in healthy.radiograph.regions}
    assert len(boxes) >= 20
    assert set(boxes) <= set(region_entries())
    right, left, heart, spine = (boxes[n] for n in ("right_lung", "left_lung", "cardiac_silhouette", "spine"))
    assert right.column1 < left.column1
    assert right.column0 < left.column0, "the patient's right is on the left"
    middle = (spine.column0 + spine.column1) / 2
    assert middle - heart.column0 < heart.column1 - middle, "more of the heart is on the patient's left"
    for side in ("right", "left"):
        zone = boxes[f"{side}_upper_lung_zone"]
        inner = pixels[zone.row0 + 20 : zone.row1, zone.column0 + 40 : zone.column1 - 40]
        assert inner.size == 0 or inner.min() < pixels[heart.row0 : heart.row1, heart.column0 : heart.column1].mean()
        dome, angle = boxes[f"{side}_hemidiaphragm"], boxes[f"{side}_costophrenic_angle"]
        assert dome.row0 < angle.row0 < dome.row1
    above = pixels[boxes["right_hemidiaphragm"].row0 - 30, right.column0 + 40 : right.column0 + 60].mean()
    below = pixels[min(right.row1 + 10, len(pixels) - 1), right.column0 + 40 : right.column0 + 60].mean()
    assert below > above + 30, "the belly is denser than the lung"


@pytest.mark.parametrize("pair", ["lung_left:lung_nodule", "lung_right:consolidation", "pleura_left:pleural_effusion"])
def test_a_lesion_darkens_the_rays_through_it(healthy: SimulatedCxr, pair: str) -> None:
    """Brighter on the radiograph at the place the truth names, compared with the healthy twin."""
    ill = simulate_radiograph(2, 0, ONE, STILL, pairs=(pair,))
    assert ill.truth[pair] == 1
    assert sum(ill.truth.values()) == 1
    twin, geometry = healthy.study.scan, ill.radiograph.geometry
    change = line_integrals(ill.study.scan.hu, geometry, STILL.beam) - line_integrals(twin.hu, geometry, STILL.beam)
    lesion = max(ill.lesions, key=lambda one: one.radius)
    row, column = round(lesion.row / 2), round(lesion.column / 2)
    around = change[row - 3 : row + 4, column - 3 : column + 4]
    assert around.mean() > 0.05
    assert around.mean() > 4 * abs(float(np.median(change)))
    assert (column > change.shape[1] / 2) == ("left" in pair)


def test_cardiomegaly_widens_the_hearts_box(healthy: SimulatedCxr) -> None:
    def ratio(radiograph: SimulatedCxr) -> float:
        boxes = {region.name: region for region in radiograph.radiograph.regions}
        heart, right, left = (boxes[n] for n in ("cardiac_silhouette", "right_lung", "left_lung"))
        return (heart.column1 - heart.column0) / (left.column1 - right.column0)

    ill = simulate_radiograph(2, 0, ONE, STILL, pairs=("heart:cardiomegaly",))
    assert ratio(ill) > 1.08 * ratio(healthy)


def test_reports_are_read_back_and_impressions_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    from ctglip.simulation import cxr as radiographs

    organs, abnormalities, parser = load_organs(), load_abnormalities(), get_parser()
    chest = chest_of(built_in_anatomy(0, False))
    settings = radiographs.cxr_bodies(SimulationSettings())
    settings = settings.model_copy(update={"reports": settings.reports.model_copy(update={"affirm": 1.0})})
    asked = wrong = long = missing = 0
    for index in range(150):
        truth, lesions = _patient(index)
        report = radiographs._report(Reading(truth, lesions), chest, settings, CxrSettings(), "pa", 1, index)
        if report.findings is None or report.impression is None:
            missing += 1
            assert report.findings or report.impression, "one of the two is always there"
            continue
        long += len(report.impression) >= len(report.findings)
        rows = parser.parse(Report(findings=report.findings))
        for pair, here in truth.items():
            organ, name = pair.split(":")
            affirmed = organ_evidence(rows, organ, organs, abnormalities).affirmed
            asked += 1
            wrong += bool({name, *abnormalities.descendants(name)} & affirmed.keys()) != bool(here)
    assert wrong <= 0.03 * asked, f"{wrong} of {asked}"
    assert long <= 15
    assert 4 <= missing <= 30


def _patient(seed: int) -> tuple[dict[str, int], dict]:
    from ctglip.simulation.cxr import SHOWN
    from ctglip.simulation.lesions import KINDS
    from ctglip.simulation.scene import Lesion

    rng = np.random.default_rng(seed)
    truth = {kind.pair: int(rng.random() < 0.25) for kind in KINDS if kind.abnormality in SHOWN}
    lesions = {}
    for pair in (pair for pair, here in truth.items() if here):
        organ, name = pair.split(":")
        lobe = f"lung_upper_lobe_{organ.rsplit('_', 1)[-1]}"
        detail = "small" if name == "pleural_effusion" else lobe
        lesions[pair] = [Lesion(name, organ, (0, 0, 0), float(rng.uniform(4, 70)), detail)]
    return truth, lesions


COARSE = SimulationSettings(bodies=1, contrast=0, spacing_mm=6)
SMALL = CxrSettings(beam=BeamSettings(pixel_mm=3), lateral=0.4)


def test_a_cohort_of_radiographs(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    cohort = read_cohort(simulate_cohort(tmp_path, 5, 4, COARSE, radiographs=SMALL, progress=progress))
    assert cohort.bad == ()
    assert seen[-1] == (5, 5)
    assert {row.modality for row in cohort.rows} == {"cxr"}
    assert {row.view for row in cohort.rows} == {"pa", "lateral"}
    assert all(row.regions and read_regions(row.regions) for row in cohort.rows)
    truth = label_frame(tmp_path / "truth.csv")
    assert truth.height == 5
    assert "liver:liver_cyst" not in truth.columns
    lesions = pl.read_csv(tmp_path / "lesions.csv")
    assert lesions.columns == ["study_id", "organ", "abnormality", "row", "column", "radius"]
    assert (tmp_path / "montage.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_same_cxr_with_any_number_of_workers(tmp_path: Path) -> None:
    for name, workers in (("a", 1), ("b", 2)):
        simulate_cohort(tmp_path / name, 5, 4, COARSE, radiographs=SMALL, workers=workers)
    for file in sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), file


def test_a_body_without_lungs_gives_no_radiograph() -> None:
    anatomy = built_in_anatomy(0, False)
    with pytest.raises(CTGLIPError, match="no lungs"):
        chest_of(type(anatomy)(anatomy.hu, np.zeros_like(anatomy.labels), anatomy.spacing_mm, "empty"))
    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    scan = Scan(np.zeros((8, 8, 8), np.int16), affine)
    with pytest.raises(CTGLIPError, match="cubes"):
        project(scan, LabelMap(np.ones((8, 8, 8), np.uint8), affine), BeamSettings(), "pa", np.random.default_rng(0))
