"""A draft says what is in a scan and what is not, keeps to its organs, and is text, JSON, a page and DICOM."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.ct.structured_report import write_structured_report
from ctglip.errors import ConfigError, CTGLIPError, ModelError, ScanError
from ctglip.store.tables import Store
from ctglip.tasks.draft_page import write_draft
from ctglip.tasks.report_draft import (
    DISCLAIMER,
    NOTHING_FOUND,
    DraftedOrgan,
    DraftedSentence,
    ReportDraft,
    ReportDrafter,
)
from ctglip.tasks.tuning import finetune
from ctglip.types import LabelMap, Scan
from ctglip.vocabulary.organs import load_organs
from tests.cohorts.builders import write_dicom_series
from tests.tasks.test_report import config
from tests.training.tiny import tiny_study


@pytest.fixture(scope="module")
def drafter(run: Path, tiny: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory) -> ReportDrafter:
    """A writer that knows its three organs."""
    out = tmp_path_factory.mktemp("drafter") / "out"
    finetune(run, tiny[0].path, out, None, config(report={"baselines": []}))
    return ReportDrafter(out)


def patient(seed: int) -> tuple[Scan, LabelMap, dict[str, int]]:
    scan, labels, _, truth = tiny_study(np.random.default_rng(seed))
    return scan, labels, truth


def test_a_draft_says_what_is_there_and_what_is_not(drafter: ReportDrafter) -> None:
    right = 0
    for seed in range(100, 110):
        scan, labels, truth = patient(seed)
        said = set(drafter.draft(scan, labels).pairs())
        right += sum(((*name.split(":"),) in said) == bool(there) for name, there in truth.items())
    assert right >= 24, "of 30 answers"
    scan, labels, _ = patient(100)
    without = labels.labels.copy()
    without[without == load_organs()["spleen"].label] = 0
    draft = drafter.draft(scan, replace(labels, labels=without))
    assert [one.organ for one in draft.organs] == list(drafter.writer.organs)
    missing = next(one for one in draft.organs if one.organ == "spleen")
    assert missing.sentences == ()
    assert missing.reason == "The spleen is not in the scan's masks."
    assert missing.reason in draft.findings
    assert DISCLAIMER in draft.text()
    assert all(one in draft.findings for one in draft.affirming)
    assert draft.impression == (" ".join(draft.affirming) or draft.without_impression)
    empty = ReportDraft("scan", (DraftedOrgan("liver", "liver"),), draft.study)
    assert empty.impression == NOTHING_FOUND


def test_a_writer_of_nonsense_calls_no_scan_normal(drafter: ReportDrafter) -> None:
    study = drafter.draft(*patient(100)[:2]).study
    nonsense = DraftedSentence("No evident abnormality in the right.", fault="nothing in it is known of this organ")
    sound = DraftedSentence("The liver is normal.")
    draft = ReportDraft("scan", (DraftedOrgan("liver", "liver", (sound, nonsense)),), study)
    assert draft.impression == "No impression: the dictionary contradicts 1 of 2 sentences."
    assert replace(draft, organs=(DraftedOrgan("liver", "liver", (sound,)),)).impression == NOTHING_FOUND


@pytest.mark.parametrize(
    ("score", "normal", "said"),
    [
        (0.41, 0.27, "On 43 test patients its clinical F1 was 0.410, and 0.270 with everything called normal."),
        (0.0, 0.3, "do not use what it writes."),
        (0.41, None, "On 43 test patients its clinical F1 was 0.410."),
    ],
)
def test_a_draft_says_how_good_its_writer_is(
    drafter: ReportDrafter, tmp_path: Path, score: float, normal: float | None, said: str
) -> None:
    arms = {"run": score, **({} if normal is None else {"normal": normal})}
    scores = {name: {"value": value, "low": None, "high": None} for name, value in arms.items()}
    points = [{"initialization": name, "score": value} for name, value in scores.items()]
    folder = shutil.copytree(drafter.pipeline.release.folder.parent, tmp_path / "out")
    (folder / "results.json").write_text(json.dumps({"patients": 43, "score": scores["run"], "points": points}))
    assert ReportDrafter(folder).disclaimer.startswith(DISCLAIMER)
    assert ReportDrafter(folder).disclaimer.endswith(said)
    (folder / "results.json").unlink()
    assert "was not kept" in ReportDrafter(folder).disclaimer


def test_how_it_is_written_can_be_changed(drafter: ReportDrafter) -> None:
    scan, labels, _ = patient(101)
    study = drafter.draft(scan, labels).study
    one, two = (drafter.draft_of(study, {"temperature": 2.0, "seed": 3}).findings for _ in range(2))
    assert one == two
    assert {drafter.draft_of(study, {"temperature": 2.0, "seed": seed}).findings for seed in range(4)} != {one}
    kept = drafter.draft_of(study, {"temperature": 4.0, "seed": 1, "constrain": "dictionary", "candidates": 8})
    assert not any(sentence.fault for organ in kept.organs for sentence in organ.sentences)
    with pytest.raises(ConfigError, match="beams"):
        drafter.draft_of(study, {"beams": 0})


def test_the_page_shows_the_organ_of_each_sentence(drafter: ReportDrafter, tmp_path: Path) -> None:
    scan, labels, _ = next(one for one in map(patient, range(200, 240)) if one[2]["liver:hepatic_steatosis"])
    draft = drafter.draft(scan, labels)
    page = write_draft(drafter, draft, tmp_path).read_text()
    figures = set(re.findall(r'<figure class="shown" id="([a-z0-9-]+)"', page))
    links = re.findall(r'<a class="says[^"]*" href="#([a-z0-9-]+)">([^<]+)</a>', page)
    assert {key for key, _ in links} == figures
    sentences = [one.text for organ in draft.organs for one in organ.sentences]
    assert [html.unescape(text) for _, text in links] == [*sentences, *draft.affirming]
    assert {f"{organ}-{name}".replace("_", "-") for organ, name in draft.pairs()} <= figures
    assert DISCLAIMER in page
    assert "<script" not in page
    value = json.loads((tmp_path / "report.json").read_text())
    assert value["disclaimer"] == draft.disclaimer
    assert value["findings"] == draft.findings
    assert (tmp_path / "report.txt").read_text() == draft.text()


def write_files(folder: Path, seed: int) -> tuple[Path, Path]:
    scan, labels, _ = patient(seed)
    nib.save(nib.Nifti1Image(scan.hu, scan.affine), folder / "scan.nii.gz")
    nib.save(nib.Nifti1Image(labels.labels, labels.affine), folder / "masks.nii.gz")
    return folder / "scan.nii.gz", folder / "masks.nii.gz"


def test_the_command_drafts_and_names_what_is_wrong(drafter: ReportDrafter, run: Path, tmp_path: Path) -> None:
    scan, masks = write_files(tmp_path, 102)
    folder = str(drafter.pipeline.release.folder.parent)
    ask = ["report", folder, str(scan), "--masks", str(masks), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*ask, "--json", "--no-maps", "--beams", "2", "--constrain"], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["findings"] in (tmp_path / "out" / "report.txt").read_text()
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"report.txt", "report.json", "report.html"}
    for arguments, problem in (
        (["report", str(run), *ask[2:]], "writes no reports"),
        ([*ask, "--sr"], "no DICOM images"),
        ([*ask[:2], str(tmp_path / "none.nii.gz"), *ask[3:]], "none.nii.gz"),
        ([*ask, "--set", "ct.serie=3"], "serie"),
    ):
        with pytest.raises(CTGLIPError, match=problem):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
    (tmp_path / "broken.nii.gz").write_bytes(scan.read_bytes()[:200])
    with pytest.raises(ScanError):
        CliRunner().invoke(app, [*ask[:2], str(tmp_path / "broken.nii.gz"), *ask[3:]], catch_exceptions=False)
    with pytest.raises(ModelError, match="writes no reports"):
        ReportDrafter(tmp_path)


def test_a_draft_is_about_the_series_that_is_read(drafter: ReportDrafter, tmp_path: Path) -> None:
    long = write_dicom_series(tmp_path / "study" / "a", SeriesInstanceUID="1.2.4", SeriesNumber=1)
    short = write_dicom_series(tmp_path / "study" / "b", slices=5, SeriesInstanceUID="1.2.5", SeriesNumber=2)
    (long / "notes.txt").write_text("no image")
    assert sorted(drafter.image_files(tmp_path / "study")) == sorted(long.glob("*.dcm"))
    assert sorted(drafter.image_files(tmp_path / "study", ["ct.series=2"])) == sorted(short.glob("*.dcm"))
    assert drafter.image_files(tmp_path / "scan.nii.gz") == [tmp_path / "scan.nii.gz"]


def test_sentences_of_other_organs_are_shown_as_text_and_located_nowhere(
    drafter: ReportDrafter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, labels, _ = patient(100)
    text = "The spleen is enlarged. <b>x</b> & a stone in the right kidney."
    monkeypatch.setattr(drafter.writer, "write", lambda features, organ, writing: [[text] for _ in organ])
    draft = drafter.draft(scan, labels)
    assert list(draft.pairs()) == [("spleen", "splenomegaly")]
    page = write_draft(drafter, draft, tmp_path).read_text()
    assert "&lt;b&gt;x&lt;/b&gt; &amp; a stone" in page
    assert "<b>x" not in page
    assert re.findall(r'<figure class="shown" id="([a-z0-9-]+)"', page)[0] == "spleen-splenomegaly"


def test_a_structured_report_refers_to_its_series(tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    from pydicom import dcmread

    series = write_dicom_series(
        tmp_path / "series", PatientID="P7", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4",
        SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Ada",
    )  # fmt: skip
    files = sorted(series.iterdir())
    made = write_structured_report(
        tmp_path / "report.dcm", files, DISCLAIMER, ["Łódź classification: normal.", "Renal cyst."], ["Renal cyst."]
    )
    found = dcmread(made)
    assert (found.PatientID, found.StudyInstanceUID, found.Modality) == ("P7", "1.2.3", "SR")
    assert found.PatientName == "Müller^Ada"
    assert found.SeriesInstanceUID != "1.2.4"
    assert (found.CompletionFlag, found.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    referenced = found.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == "1.2.4"
    assert len(referenced.ReferencedSOPSequence) == len(files)
    texts = {
        section.ConceptNameCodeSequence[0].CodeMeaning: [item.TextValue for item in section.ContentSequence]
        for section in found.ContentSequence
        if section.ValueType == "CONTAINER"
    }
    assert texts == {"Findings": ["Łódź classification: normal.", "Renal cyst."], "Impressions": ["Renal cyst."]}
    assert DISCLAIMER in [item.TextValue for item in found.ContentSequence if item.ValueType == "TEXT"]
