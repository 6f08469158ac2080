"""A trained tiny model and the scan of one tiny study, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctglip.store.tables import Store
from ctglip.training.launch import pretrain
from tests.training.conftest import tiny_config
from tests.training.tiny import tiny_study, write_tiny_store, write_word_bert


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store of 30 tiny studies and a run of two steps on it."""
    folder = tmp_path_factory.mktemp("trained")
    store, _ = write_tiny_store(folder / "store", 30)
    pretrain(store.path, folder / "run", tiny_config(write_word_bert(folder / "bert"), steps=2))
    return store, folder / "run"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The scan and the masks (TotalSegmentator v2's numbers) of the store's first study as NIfTI files."""
    folder = tmp_path_factory.mktemp("scan")
    scan, labels, _, _ = tiny_study(np.random.default_rng(0))
    nib.save(nib.Nifti1Image(scan.hu, scan.affine), folder / "scan.nii.gz")
    nib.save(nib.Nifti1Image(labels.labels, labels.affine), folder / "masks.nii.gz")
    return folder / "scan.nii.gz", folder / "masks.nii.gz"
