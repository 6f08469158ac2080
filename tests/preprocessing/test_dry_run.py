"""``ctglip preprocess --dry-run`` says what would be done, and does nothing."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from ctglip.cli.main import app


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    (tmp_path / "cohort.csv").write_text(
        "study_id,patient_id,image,masks\n1,p,a.nii.gz,\n2,q,gone.nii.gz,a.nii.gz\n,r,b,\n"
    )
    arguments = ["preprocess", str(tmp_path / "cohort.csv"), str(tmp_path / "store"), "--dry-run"]
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    plan = json.loads(done.stdout)
    assert (plan["studies"], plan["new"], plan["in_store"], plan["bad_rows"]) == (3, 2, 0, 1)
    assert (plan["images_missing"], plan["without_masks"]) == (1, 1)
    assert plan["gigabytes"] > 0
    assert not (tmp_path / "store").exists()
    (tmp_path / "store/studies/1.zarr").mkdir(parents=True)
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "1 new, 1 in the store" in shown
    assert "Nothing was done." in shown


def test_radiographs_are_not_reckoned_as_scans(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("study_id,patient_id,image\n1,p,a.png\n2,q,b.png\n")
    arguments = ["preprocess", str(tmp_path / "cohort.csv"), str(tmp_path / "store"), "--dry-run"]
    scans = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    radiographs = CliRunner().invoke(app, [*arguments, "--for", "rad_dino"], catch_exceptions=False).stdout
    assert "0.017 GB, where each is a CT of 300 slices with masks" in scans
    assert "0.001 GB, where each is a radiograph of about 2544 x 3056 pixels" in radiographs
