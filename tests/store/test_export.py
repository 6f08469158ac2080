from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import pytest

from ctglip.errors import StoreError
from ctglip.store.export import export_study
from ctglip.store.study import SourceGrid, write_study
from ctglip.store.tables import Store
from ctglip.types import Standardized


def test_the_stored_grid_gives_every_voxel_back(store: Store, tmp_path: Path, record) -> None:
    files = export_study(store, "s-b", tmp_path / "out")
    assert [f.name for f in files] == ["image.nii.gz", "organs.nii.gz", "organs.csv"]
    written = record("s-b", "p2").standardized
    image, organs = (nib.load(f) for f in files[:2])
    np.testing.assert_array_equal(np.asarray(image.dataobj), written.image)
    np.testing.assert_array_equal(np.asarray(organs.dataobj), written.organs)
    np.testing.assert_allclose(image.affine, written.affine)
    assert image.header.get_xyzt_units()[0] == "mm"
    table = pl.read_csv(files[2])
    assert table["organ"].to_list() == ["liver"]
    assert table["volume_ml"][0] == 1.728


def test_the_original_grid_puts_things_where_they_were(store: Store, tmp_path: Path, record) -> None:
    fine = np.diag([1.0, 1.0, 1.0, 1.0])
    stored = np.full((10, 10, 10), -1000, np.int16)
    stored[4:8, 2:6, 1:9] = 50
    masks = (stored == 50).astype(np.uint8)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [10.5, 4.5, 0.5]
    made = record("x", standardized=Standardized(stored, masks, affine), source=SourceGrid((40, 30, 20), fine))
    write_study(store.path, made)
    image, organs = (nib.load(f) for f in export_study(store, "x", tmp_path / "out", grid="original")[:2])
    assert image.shape == organs.shape == (40, 30, 20)
    np.testing.assert_array_equal(image.affine, fine)
    inside = np.zeros((40, 30, 20), bool)
    inside[18:26, 8:16, 2:18] = True
    np.testing.assert_array_equal(np.asarray(organs.dataobj) == 1, inside)
    core = np.s_[20:24, 10:14, 4:16]
    assert (np.asarray(image.dataobj)[core] == 50).all()
    assert (np.asarray(image.dataobj)[:9] == -1024).all()


def test_an_unknown_original_grid_is_said(store: Store, tmp_path: Path, record) -> None:
    write_study(store.path, record("x", source=None))
    with pytest.raises(StoreError) as error:
        export_study(store, "x", tmp_path, grid="original")
    assert error.value.code == "no_source_grid"
    with pytest.raises(StoreError):
        export_study(store, "absent", tmp_path)
