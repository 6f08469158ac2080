"""What a run leaves in the store and the journal, and what the next run makes of it."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ctglip_preprocessing import case
from ctglip_preprocessing.command import describe

from ctglip.errors import OutputError, StoreError
from ctglip.files import exclusive, remove
from ctglip.store.format import study_path
from ctglip.store.journal import Journal
from ctglip.store.parts import write_parquet
from ctglip.store.study import StudyRecord
from ctglip.store.tables import Store
from ctglip.store.verify import verify
from tests.preprocessing.conftest import REPORT, contents, statuses, write_scan, write_table


def test_a_cohort_becomes_a_store(make_cohort, run, tmp_path: Path) -> None:
    make_cohort(3)
    summary = run()
    assert (summary.studies, summary.written, summary.failed, summary.others) == (3, 3, (), 0)
    store = Store.open(tmp_path / "store")
    assert verify(store) == []
    assert store.study_ids == ["00000", "00001", "00002"]
    liver = store.table("organs").filter(organ="liver").row(0, named=True)
    assert liver["volume_ml"] == pytest.approx(7 * 8 * 8 * 0.064, rel=0.02)
    assert liver["mean_hu"] == pytest.approx(60, abs=1)
    assert liver["sd_hu"] == pytest.approx(0, abs=1)
    study = store.study("00000")
    box = tuple(liver[edge] for edge in ("x0", "x1", "y0", "y1", "z0", "z1"))
    assert np.unique(study.organs(box)).tolist() == [5]
    assert store.info.unions["lungs"]
    assert store.table("reports")["section"].to_list()[:2] == ["findings", "impression"]
    findings = store.table("findings").filter(study_id="00000", organ="liver", status="affirmed")
    assert "hepatomegaly" in findings["abnormality"].to_list()
    assert store.table("splits").height == 3
    assert set(statuses(store.path).values()) == {("done", "")}


def test_a_second_run_does_nothing(make_cohort, run, tmp_path: Path) -> None:
    make_cohort(3)
    run()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*") if p.name != "store.json"}
    summary = run()
    assert (summary.worked, summary.written, summary.up_to_date) == (0, 0, 3)
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").rglob("*") if p.name != "store.json"}
    assert {p.name for p in before if before[p] != after[p]} <= {"store"}


def test_only_what_changed_is_done_again(make_cohort, run, tmp_path: Path, config) -> None:
    table, rows = make_cohort(4)
    run()
    write_scan(tmp_path / "ct00001.nii.gz", seed=99)
    os.utime(tmp_path / "ct00002.nii.gz")
    rows[3]["report"] = "FINDINGS: The spleen is enlarged."
    write_table(table, rows)
    before = contents(tmp_path / "store" / "studies")
    summary = run()
    assert (summary.worked, summary.written, summary.up_to_date) == (3, 2, 2)
    after = contents(tmp_path / "store" / "studies")
    assert {name.split(".")[0] for name in before if before[name] != after.get(name)} == {"00001", "00003"}
    assert verify(Store.open(tmp_path / "store")) == []


def test_another_recipe_hides_no_study(make_cohort, run, tmp_path: Path, config) -> None:
    table, rows = make_cohort(4)
    run()
    kept = contents(tmp_path / "store")
    coarse = config.model_copy(update={"ct": config.ct.model_copy(update={"spacing_mm": (6.0, 6.0, 6.0)})})
    for chosen in (rows, rows[:1]):
        write_table(table, chosen)
        with pytest.raises(StoreError) as caught:
            run(config=coarse)
        assert caught.value.code == "other_recipe"
        assert "spacing_mm [4.0, 4.0, 4.0], now [6.0, 6.0, 6.0]" in str(caught.value)
        assert "4 studies" in str(caught.value)
        assert contents(tmp_path / "store") == kept
    write_table(table, rows)
    run()
    assert len(Store.open(tmp_path / "store").study_ids) == 4


def test_a_store_without_a_study_takes_another_recipe(make_cohort, run, tmp_path: Path, config) -> None:
    make_cohort(1)
    scan = tmp_path / "ct00000.nii.gz"
    scan.rename(tmp_path / "away")
    assert len(run().failed) == 1
    (tmp_path / "away").rename(scan)
    coarse = config.model_copy(update={"ct": config.ct.model_copy(update={"spacing_mm": (6.0, 6.0, 6.0)})})
    assert run(config=coarse).written == 1
    assert Store.open(tmp_path / "store").study("00000").spacing_mm == (6.0, 6.0, 6.0)


def test_a_second_table_with_the_same_recipe_adds(make_cohort, run, tmp_path: Path) -> None:
    table, rows = make_cohort(4)
    write_table(table, rows[:2])
    run()
    write_table(table, rows[2:])
    summary = run()
    assert (summary.written, summary.others) == (2, 2)
    assert Store.open(tmp_path / "store").study_ids == ["00000", "00001", "00002", "00003"]


def test_the_same_image_under_two_patients_is_named(make_cohort, run, tmp_path: Path) -> None:
    table, rows = make_cohort(4)  # patients p0, p0, p1, p1
    scan = tmp_path / "ct00000.nii.gz"
    (tmp_path / "ct00003.nii").write_bytes(gzip.decompress(scan.read_bytes()))  # another file, the same image
    (tmp_path / "ct00001.nii.gz").write_bytes(scan.read_bytes())  # of the same patient: no leak
    rows[3]["image"] = "ct00003.nii"
    write_table(table, rows)
    summary = run()
    assert summary.same_images == (("00000", "00001", "00003"),)
    page = (tmp_path / "store" / "quality.html").read_text(encoding="utf-8")
    assert "same_image" in page
    assert "00000, 00001, 00003" in page
    rows[3]["image"] = "ct00003.nii.gz"
    write_table(table, rows)
    assert run().same_images == ()


def test_failures_are_rows_and_the_others_finish(make_cohort, run, tmp_path: Path) -> None:
    table, rows = make_cohort(6)
    rows[0]["image"] = "nowhere.nii.gz"
    (tmp_path / "ct00001.nii.gz").write_bytes((tmp_path / "ct00001.nii.gz").read_bytes()[:400])
    rows[2]["report"] = "   "
    rows[3]["report"] = "-- 42 --"
    rows.append(rows[4] | {"study_id": "../../x"})
    write_table(table, rows)
    summary = run()
    failed = {failure.study_id: (failure.stage, failure.code) for failure in summary.failed}
    assert failed["00000"] == ("ingest", "no_file")
    assert failed["00001"][0] == "ingest"
    assert failed["00002"] == failed["00003"] == ("report", "report_empty")
    assert failed["../../x"] == ("cohort", "bad_id")
    assert (summary.written, len(failed)) == (2, 5)
    assert Store.open(tmp_path / "store").study_ids == ["00004", "00005"]
    assert statuses(tmp_path / "store")["00002"] == ("failed", "report_empty")
    again = run()
    assert (again.worked, again.up_to_date, len(again.failed)) == (0, 2, 5)
    assert run(retry_failed=True).worked == 4
    rows[2]["report"] = REPORT
    rows.pop()
    write_table(table, rows)
    mended = run()
    assert (mended.written, len(mended.failed)) == (1, 3)
    assert "../../x" not in statuses(tmp_path / "store")


def test_a_cohort_without_report_columns_is_images_alone(make_cohort, run, tmp_path: Path) -> None:
    make_cohort(2, report=None)
    assert run().failed == ()
    assert Store.open(tmp_path / "store").table("findings").is_empty()


def test_a_study_without_masks_has_no_organs(make_cohort, run, tmp_path: Path) -> None:
    table, rows = make_cohort(2)
    del rows[1]["masks"]
    write_table(table, rows)
    summary = run()
    assert summary.written == 2
    assert summary.without_masks == ("00001",)
    assert summary.as_dict()["without_masks"] == ("00001",)
    assert "1 study without organ masks: 00001." in describe(summary)
    page = (tmp_path / "store" / "quality.html").read_text(encoding="utf-8")
    assert "no_masks" in page
    assert "is trained on: 00001." in page
    assert Store.open(tmp_path / "store").study("00001").organs() is None


def test_input_that_changed_for_the_worse_is_not_served_as_it_was(make_cohort, run, tmp_path: Path) -> None:
    make_cohort(3)
    run()
    scan = tmp_path / "ct00001.nii.gz"
    scan.write_bytes(scan.read_bytes()[:300])
    summary = run()
    assert [failure.study_id for failure in summary.failed] == ["00001"]
    store = Store.open(tmp_path / "store")
    assert store.study_ids == ["00000", "00002"]
    assert not study_path(store.path, "00001").exists()
    assert verify(store) == []


def test_a_drive_that_is_away_does_not_empty_the_store(make_cohort, run, tmp_path: Path) -> None:
    make_cohort(2)
    run()
    kept = contents(tmp_path / "store")
    for scan in tmp_path.glob("ct*.nii.gz"):
        scan.rename(scan.with_suffix(".away"))
    summary = run()
    assert [failure.code for failure in summary.failed] == ["no_file", "no_file"]
    assert contents(tmp_path / "store") == kept
    for scan in tmp_path.glob("ct*.away"):
        scan.rename(scan.with_suffix(".gz"))
    back = run()
    assert (back.written, back.up_to_date, back.failed) == (0, 2, ())


def test_studies_of_earlier_cohorts_stay(make_cohort, run, tmp_path: Path) -> None:
    table, rows = make_cohort(4)
    run()
    splits = Store.open(tmp_path / "store").table("splits")
    write_table(table, rows[:1])
    summary = run()
    assert (summary.up_to_date, summary.others) == (1, 3)
    store = Store.open(tmp_path / "store")
    assert len(store.study_ids) == 4
    assert store.table("splits").equals(splits)


def test_the_cohorts_split_wins_and_a_patient_in_two_is_refused(make_cohort, run, tmp_path: Path) -> None:
    table, rows = make_cohort(4)
    for row, split in zip(rows, ("val", "val", "test", "test"), strict=True):
        row["split"] = split
    write_table(table, rows)
    assert run().moved == {}
    store = Store.open(tmp_path / "store")
    assert store.table("splits")["split"].to_list() == ["val", "val", "test", "test"]
    rows[0]["split"] = rows[1]["split"] = "train"
    write_table(table, rows)
    summary = run()
    assert (summary.worked, summary.moved) == (0, {"p0": ("val", "train")})
    rows[1]["split"] = "test"
    write_table(table, rows)
    with pytest.raises(StoreError, match="'p0' is in two splits"):
        run()


def test_what_a_killed_driver_left_is_taken_up(make_cohort, run, tmp_path: Path) -> None:
    make_cohort(4)
    run()
    whole = contents(tmp_path / "store")
    store = tmp_path / "store"
    with Journal(Store.open(store)) as journal:
        journal.forget(["00001", "00002"])
    remove(study_path(store, "00002"))
    (store / "studies" / ".00003.zarr.0123.tmp").mkdir()
    (store / ".organs.parquet.99.tmp").write_text("x")
    remove(store / "organs.parquet")
    summary = run()
    assert (summary.written, summary.up_to_date) == (1, 3)
    assert contents(store) == whole


def test_a_lost_journal_costs_no_study(make_cohort, run, tmp_path: Path) -> None:
    make_cohort(3)
    run()
    (tmp_path / "store" / "journal.sqlite").unlink()
    assert (run().written, run().worked) == (0, 0)
    (tmp_path / "store" / "journal.sqlite").write_text("no journal")
    with pytest.raises(StoreError, match="Remove it"):
        run()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
def test_a_store_that_cannot_be_written_is_no_fault_of_the_study(
    make_cohort, run, tmp_path: Path, monkeypatch, number: int
) -> None:
    make_cohort(3)
    write, written = case.write_study, []

    def fails_once(root: Path, record: StudyRecord) -> Path:
        written.append(record.study_id)
        if len(written) == 2:
            raise OSError(number, os.strerror(number), str(root))
        return write(root, record)

    monkeypatch.setattr(case, "write_study", fails_once)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        run()
    assert len(str(caught.value).splitlines()) == 1
    assert statuses(tmp_path / "store") == {written[0]: ("done", "")}
    assert run().failed == ()
    assert set(statuses(tmp_path / "store").values()) == {("done", "")}
    assert len(statuses(tmp_path / "store")) == 3


def test_two_writers_exclude_each_other(make_cohort, run, tmp_path: Path) -> None:
    make_cohort(1)
    run()
    with exclusive(tmp_path / "store"), pytest.raises(OutputError, match="Another process"):
        run()


def test_tables_grow_in_batches_as_the_run_goes(make_cohort, run, tmp_path: Path, monkeypatch) -> None:
    make_cohort(5)
    for name in ("FIRST_BATCH", "BATCH"):
        monkeypatch.setattr(f"ctglip_preprocessing.bookkeeping.{name}", 2)
    monkeypatch.setattr("ctglip_preprocessing.bookkeeping.ENTER_EVERY_S", 0.0)
    seen: list[int] = []

    def watch(results, total: int):
        for result in results:
            yield result
            seen.append(len(Store.open(tmp_path / "store").study_ids))

    run(watch=watch)
    assert seen == [0, 2, 2, 4, 4]
    grown = contents(tmp_path / "store")
    verify(Store.open(tmp_path / "store"), repair=True)
    for name in ("studies", "organs"):
        remove(tmp_path / "store" / f"{name}.parquet")
    run()
    assert contents(tmp_path / "store") == grown


def _shift(path: Path) -> None:
    """Rescale as a scanner does whose padding is -8192."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image((np.asarray(image.dataobj) - 8192).astype(np.int16), image.affine), path)


def test_a_study_that_is_not_what_it_claims_to_be_is_refused_or_kept(make_cohort, run, tmp_path: Path, config) -> None:
    make_cohort(3)
    _shift(tmp_path / "ct00001.nii.gz")
    write_scan(tmp_path / "masks00002.nii.gz", labels=True)
    masks = nib.load(tmp_path / "masks00002.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(masks.dataobj)[::-1], masks.affine), tmp_path / "masks00002.nii.gz")
    summary = run()
    failures = {failure.study_id: failure for failure in summary.failed}
    assert {i: (failure.stage, failure.code) for i, failure in failures.items()} == {
        "00001": ("check", "intercept_8192"),
        "00002": ("check", "left_right"),
    }
    assert "error_checks: keep" in failures["00001"].message
    assert Store.open(tmp_path / "store").study_ids == ["00000"]
    page = (tmp_path / "store" / "quality.html").read_text()
    assert "intercept_8192" in page
    assert "do not enter the store" in page
    kept = run(config=config.model_copy(update={"error_checks": "keep"}), retry_failed=True)
    assert (kept.written, kept.up_to_date, kept.failed) == (2, 1, ())
    checks = dict(Store.open(tmp_path / "store").table("studies").select("study_id", "checks").iter_rows())
    assert '"severity": "error"' in checks["00001"]
    assert '"severity": "error"' not in checks["00000"]


class Died(BaseException):
    pass


@pytest.mark.parametrize("written", range(7))
def test_a_driver_that_dies_among_the_tables_is_made_up_for(
    make_cohort, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Whichever tables were replaced when it died, the next run brings all of them up to date."""
    table, rows = make_cohort(4)
    write_table(table, rows[:2])
    run()
    write_table(table, rows)
    left = written

    def dying(*arguments) -> None:
        nonlocal left
        if left == 0:
            raise Died
        left -= 1
        write_parquet(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("ctglip.store.parts.write_parquet", dying)
        patch.setattr("ctglip.store.splits.write_parquet", dying)
        with pytest.raises(Died):
            run()
    run()
    assert verify(Store.open(tmp_path / "store")) == []
    assert Store.open(tmp_path / "store").table("organs")["study_id"].n_unique() == 4
