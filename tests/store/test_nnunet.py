"""A store as nnU-Net's raw data: nnU-Net's own check passes, and voxels, labels and splits are the store's."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.errors import CTGLIPError
from ctglip.store.mask_classes import class_map, mask_classes
from ctglip.store.nnunet import export_nnunet
from ctglip.store.tables import Store
from tests.training.tiny import ORGANS, write_tiny_radiographs, write_tiny_store

CYST = "kidney_left:renal_cyst"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "store", 12, drawn=True)[0]


def test_nnunet_reads_what_is_written(tiny: Store, tmp_path: Path) -> None:
    classes = mask_classes(["liver", "kidney_left", CYST], tiny, ORGANS)
    found = export_nnunet(tiny, tmp_path, classes, 7, "Tiny")
    folder = tmp_path / "Dataset007_Tiny"
    assert found.folder == str(folder)
    verify_dataset_integrity(str(folder), num_processes=1)
    splits = dict(tiny.table("splits").select("study_id", "split").iter_rows())
    about = json.loads((folder / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "liver": 1, "kidney_left": 2, "kidney_left_renal_cyst": 3}
    assert about["channel_names"] == {"0": "CT"}
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    assert {split: {n for n, one in splits.items() if one == split} for split in ("train", "val")} == {
        split: set(names) for split, names in fold.items()
    }
    assert about["numTraining"] == found.train + found.val
    for study_id, split in splits.items():
        kind = "Ts" if split == "test" else "Tr"
        image = nib.load(folder / f"images{kind}" / f"{study_id}_0000.nii.gz")
        labels = nib.load(folder / f"labels{kind}" / f"{study_id}.nii.gz")
        study = tiny.study(study_id)
        assert np.array_equal(np.asarray(image.dataobj), study.image())
        assert np.array_equal(np.asarray(labels.dataobj), class_map(study, classes))
        assert np.allclose(image.affine, study.affine)


def test_channels_are_a_models_windows_and_unlooked_studies_are_left_out(tiny: Store, tmp_path: Path) -> None:
    classes = mask_classes([CYST], tiny, ORGANS)
    calls: list[tuple[int, int]] = []
    windows = ((-100, 100), (0, 400))
    found = export_nnunet(tiny, tmp_path, classes, windows_hu=windows, undrawn="leave_out",
                          progress=lambda done, studies: calls.append((done, studies)))  # fmt: skip
    assert calls == [(done, 12) for done in range(13)], "studies that are left out are done too"
    drawn = set(tiny.table("lesions")["study_id"])
    assert set(found.left_out) == set(tiny.study_ids) - drawn
    folder = Path(found.folder)
    about = json.loads((folder / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "noNorm", "1": "noNorm"}
    file = next((folder / "imagesTr").glob("*_0001.nii.gz"))
    hu = tiny.study(file.name.removesuffix("_0001.nii.gz")).image()
    assert np.allclose(np.asarray(nib.load(file).dataobj), np.clip(hu / 200 - 1, -1, 1), atol=1e-5)


def test_the_command_and_its_faults(tiny: Store, tmp_path: Path) -> None:
    def said(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["store", "nnunet", str(tiny.path), str(tmp_path / "raw"), *more])
        return done.exit_code, str(done.exception) if done.exception else done.output

    code, text = said("--target", "liver")
    assert code == 0
    assert "fold 0 is the store's split" in text
    assert "Nearest names: spleen" in said("--target", "spleeen")[1]
    assert "neither empty nor" in said("--target", "liver", "--undrawn", "full")[1]
    radiographs = write_tiny_radiographs(tmp_path / "cxr", 4)[0]
    with pytest.raises(CTGLIPError, match="store of radiographs"):
        export_nnunet(radiographs, tmp_path / "x", ())
