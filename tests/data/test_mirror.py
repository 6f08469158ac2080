"""A mirror image is an organ of the other side with the texts of the other side, or it is not made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctglip.config import validate
from ctglip.data.mirror import Mirror
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.reports.parser import ReportParser
from ctglip.store.tables import Store
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

ORGANS, PARSER = load_organs(), ReportParser()
MIRROR = Mirror(ORGANS, PARSER)


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("There is a cyst in the left kidney.", "There is a cyst in the right kidney."),
        ("Simple renal cyst on the left.", "Simple renal cyst on the right."),
        ("Left-sided hydronephrosis.", "Right-sided hydronephrosis."),
        ("LEFT pleural effusion.", "RIGHT pleural effusion."),
        ("Nodule in the left lower lobe.", "Nodule in the right lower lobe."),
        (
            "Bilateral pleural effusions, left larger than right.",
            "Bilateral pleural effusions, right larger than left.",
        ),
        ("The kidneys are unremarkable.", "The kidneys are unremarkable."),
    ],
)
def test_sides_are_exchanged(text: str, mirrored: str) -> None:
    assert MIRROR.text(text) == mirrored
    assert MIRROR.text(mirrored) == text


@pytest.mark.parametrize(
    "text",
    [
        "Consolidation in the right middle lobe.",
        "Consolidation in the lingula.",
        "The left lobe of the liver is fatty.",
        "Left renal cyst and fatty liver.",
        "The right ventricle is enlarged.",
        "Stone in the lt kidney.",
    ],
)
def test_a_side_that_cannot_be_exchanged_is_refused(text: str) -> None:
    assert MIRROR.text(text) is None


def findings(text: str) -> tuple[Any, ...]:
    return PARSER.parse(f"FINDINGS: {text}")


def test_findings_of_the_mirror_image_are_those_a_parser_reads_in_its_report() -> None:
    found = MIRROR.findings(
        findings("There is a cyst in the left kidney. The kidneys show no stones. The liver is fatty."), "kidney_left"
    )
    read = findings("There is a cyst in the right kidney. The kidneys show no stones.")
    assert found is not None
    assert {(f.organ, f.abnormality, f.status, f.laterality, f.sentence) for f in found} == {
        (f.organ, f.abnormality, f.status, f.laterality, f.sentence) for f in read
    }


def test_one_sentence_that_stays_keeps_the_organ_and_organs_in_the_middle_have_no_mirror_image() -> None:
    said = findings("There is a cyst in the left kidney. Left renal stone and fatty liver.")
    assert MIRROR.findings(said, "kidney_left") is None
    assert MIRROR.findings(findings("The liver is fatty."), "liver") is None
    assert MIRROR.findings((), "kidney_left") == ()


def test_image_organ_and_texts_exchange_sides_together(tiny_store: Store, tmp_path: Path) -> None:
    def dataset(mirror: float) -> OrganDataset:
        tree = {
            "organs": ["liver", "kidney_left"],
            "crops": {"grid": [12, 12, 12]},
            "augment": {"shift_hu": 0, "shift_voxels": 0, "mirror": mirror},
        }
        return OrganDataset(tiny_store, "train", ORGANS, load_abnormalities(), validate(CropDataSettings, tree, "test"))

    plain, always = dataset(0.0), dataset(1.0)
    rows = range(len(plain))
    before = plain.samples(rows, np.random.default_rng(0))
    after = always.samples(rows, np.random.default_rng(0))
    names = list(ORGANS.names)
    for a, b in zip(before, after, strict=True):
        if names[a.organ_id] == "liver":
            assert (b.organ_id, b.parameters.mirrored) == (a.organ_id, False)
            assert np.array_equal(a.image, b.image)
            continue
        assert names[b.organ_id] == "kidney_right"
        assert b.parameters.mirrored
        assert np.array_equal(b.image, a.image[:, ::-1])
        assert np.array_equal(b.mask, a.mask[:, ::-1])
        said = [b.text_id, *b.negative_ids]
        texts = [always.texts[number].lower() for number in said if number >= 0]
        assert texts
        assert not any("left" in text for text in texts)
        assert always.keys[b.text_key] == ("kidney_right", plain.keys[a.text_key][1])
