"""What the doctor says of a scan's numbers: the histogram in bands, organ means beside what CT shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctglip.ct.doctor import BANDS_HU, ScanSummary, examine
from ctglip.vocabulary.numberings import numbering
from tests.cli.commands import here
from tests.ct.torso import affine, drawn, scan

V2 = {n: organ for n, organ in numbering("totalsegmentator_v2").organs.items() if organ != "heart"}
"""The torso's lungs lie in what it draws of the heart."""


def noisy() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 12, scan().hu.shape)
    return scan().hu + np.rint(noise)


def saved(folder: Path, change: Callable[[np.ndarray], np.ndarray] = lambda hu: hu) -> tuple[Path, Path]:
    nib.save(nib.Nifti1Image(change(noisy()).astype(np.float32), affine()), folder / "scan.nii.gz")
    nib.save(nib.Nifti1Image(drawn(V2), affine()), folder / "masks.nii.gz")
    return folder / "scan.nii.gz", folder / "masks.nii.gz"


def means(about: ScanSummary) -> dict[str, bool]:
    return {one.place: one.is_expected for one in about.means}


def test_a_scan_in_hounsfield_units(tmp_path: Path) -> None:
    checks, about = examine(*saved(tmp_path))
    assert not [check for check in checks if check.severity == "error"]
    found = means(about)
    assert {"air", "liver", "spleen", "aorta", "kidneys"} <= found.keys()
    assert all(found.values())
    assert set(about.bands) == set(BANDS_HU)
    assert sum(about.bands.values()) == pytest.approx(1)
    assert about.bands["air"] > 0.3


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda hu: hu - 1024, {"air", "liver", "spleen", "aorta"}),
        (lambda hu: hu + 1024, {"air", "liver", "spleen", "aorta"}),
        (lambda hu: hu + 8192, {"air", "liver", "spleen", "aorta"}),
        (lambda hu: (np.clip(hu, -1000, 1000) + 1000) / 2000 * 255, {"air"}),
        (lambda hu: (np.clip(hu, -1000, 1000) + 1000) / 2000, {"air"}),
    ],
    ids=["rescaled twice", "unscaled", "intercept of 8192 missing", "as 8 bits", "normalised to 0..1"],
)
def test_means_give_away_what_is_not(
    change: Callable[[np.ndarray], np.ndarray], wrong: set[str], tmp_path: Path
) -> None:
    path, masks = saved(tmp_path, change)
    checks, about = examine(path, masks)
    assert [check for check in checks if check.severity == "error"]
    found = means(about)
    assert wrong <= {place for place, expected in found.items() if not expected}, found


def test_the_command_shows_them_side_by_side(tmp_path: Path) -> None:
    path, masks = saved(tmp_path, lambda hu: hu + 1024)
    done = here("doctor", path, "--masks", masks)
    assert done.code == 1
    assert "expected -80 to 280  <- not where CT puts it" in done.out
    assert "Voxels by HU: below air 0.0%" in done.out
