"""Maps come back on the grid of the scan's own file, whatever its orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctglip.api import load_model
from ctglip.inference.maps import write_map
from ctglip.store.tables import Store
from ctglip.types import LabelMap, Scan


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR"])
def test_a_map_has_the_grid_of_the_file_and_lies_in_the_organ(
    trained: tuple[Store, Path], files: tuple[Path, Path], tmp_path: Path, axes: str
) -> None:
    turned = []
    for file in files:
        image = nib.load(file)
        target = nib.orientations.axcodes2ornt(axes)
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
        nib.save(image.as_reoriented(turn), tmp_path / file.name)
        turned.append(tmp_path / file.name)
    model = load_model(trained[1])
    answers = model.query(turned[0], ["liver: fatty liver", "left kidney: renal cyst"], masks=turned[1])
    paths = [path for shown in model.heat_maps(answers) for path in write_map(answers, shown, tmp_path / "maps")]
    assert [path.name for path in paths] == ["liver_hepatic_steatosis.nii.gz", "kidney_left_renal_cyst.nii.gz"]
    scan, masks = nib.load(turned[0]), np.asarray(nib.load(turned[1]).dataobj)
    for path, organ in zip(paths, ("liver", "kidney_left"), strict=True):
        found = nib.load(path)
        assert found.shape == scan.shape
        np.testing.assert_allclose(found.affine, scan.affine)
        values = np.abs(found.get_fdata())
        inside = masks == (model.dictionaries.organs[organ].label or 0)
        assert values[inside].mean() > 20 * values[~inside].mean()


def test_a_scan_in_memory_has_maps_too(trained: tuple[Store, Path], files: tuple[Path, Path], tmp_path: Path) -> None:
    image, masks = nib.load(files[0]), nib.load(files[1])
    scan = Scan(np.asarray(image.dataobj, dtype=np.int16), image.affine)
    labels = LabelMap(np.asarray(masks.dataobj, dtype=np.uint8), masks.affine)
    model = load_model(trained[1])
    answers = model.query(scan, ["anything abnormal in the spleen?", "gallstones?"], masks=labels)
    assert answers.answers[-1].probability is None
    paths = [path for shown in model.heat_maps(answers) for path in write_map(answers, shown, tmp_path)]
    assert len(paths) == len(answers.answers) - 1
    assert nib.load(paths[0]).shape == scan.hu.shape
