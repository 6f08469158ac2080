"""A small store with known contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctglip.store.format import StoreInfo
from ctglip.store.study import SourceGrid, StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.types import Finding, OrganRow, QualityCheck, Report, Standardized

INFO = StoreInfo(
    recipe={"spacing_mm": [1.5, 2.0, 3.0]},
    recipe_hash="recipe-a",
    dictionaries={"organs": "o", "abnormalities": "a"},
    labels={1: "spleen", 5: "liver", 10: "lung_left"},
    unions={"lungs": (10, 11)},
)
AFFINE = np.array([[1.5, 0, 0, -20.0], [0, 2.0, 0, 7.25], [0, 0, 3.0, 100.5], [0, 0, 0, 1.0]])


def make_record(study_id: str, patient_id: str | None = None, seed: int = 0, **changes) -> StudyRecord:
    """A study of 26x19x15 voxels, noise with a liver of 8x6x4 in it."""
    rng = np.random.default_rng([seed, *study_id.encode()])
    image = rng.integers(-1000, 1000, (26, 19, 15)).astype(np.int16)
    organs = np.zeros(image.shape, dtype=np.uint8)
    organs[3:11, 4:10, 5:9] = 5
    liver = OrganRow("liver", (3, 11, 4, 10, 5, 9), 1.728, 55.25, False)
    check = QualityCheck("spacing_odd", "warning", "The spacing is odd.", 3.5)
    values: dict = {
        "study_id": study_id,
        "patient_id": patient_id or f"p-{study_id}",
        "standardized": Standardized(image, organs, AFFINE, (liver,), (check,)),
        "source_checksum": f"sum-{study_id}",
        "recipe_hash": INFO.recipe_hash,
        "report": Report(findings="Liver: fatty.\nKidneys „fine“.", impression="Steatosis."),
        "findings": (
            Finding(0, "findings", "Liver: fatty.", "liver", "hepatic_steatosis", "affirmed"),
            Finding(1, "findings", "Kidneys „fine“.", "kidneys", None, "normal", "bilateral"),
            Finding(2, "impression", "Steatosis.", None, None, "uncertain", reason="no_organ"),
        ),
        "row": {"age": 61.0, "sex": "f"},
        "source": SourceGrid((52, 38, 30), np.diag([0.75, 1.0, 1.5, 1.0])),
    }
    return StudyRecord(**(values | changes))


@pytest.fixture
def record():
    return make_record


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three studies, "00123" among them, of two patients."""
    made = create_store(tmp_path / "store", INFO)
    write_study(made.path, make_record("00123", "p1"))
    write_study(made.path, make_record("s-b", "p2"))
    write_study(made.path, make_record("s-a", "p1", labels={"liver:hepatic_steatosis": 1}))
    compact(made)
    return made
