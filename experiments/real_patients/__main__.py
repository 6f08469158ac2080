"""The whole path on real patients: a cohort table, a store, questions, some training on them, questions again.

    python -m experiments.real_patients [--quick] [--json FILE] [--data DIR] [--model RUN] [--out DIR]
                                        [--steps N]

Needs the folder of real data (``CTGLIP_REAL_DATA``, default ``../shared/data``) and a trained model (``make demo``).
Three patients are no evidence of anything: this shows that real files pass every step, and what a model that was
trained on simulated bodies makes of a real one. The second figure is on a patient that the training has seen.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from ctglip.cli.console import print_line, print_note
from experiments.command import keep, parser_of

ROOT = Path(__file__).resolve().parents[2]
PATIENTS = {
    "A": ("patient_a_abdomen/ct.nii.gz", "patient_a_abdomen/totalsegmentator_v2.nii.gz"),
    "B": ("patient_b_dicom/dicom", "patient_b_dicom/totalsegmentator_v2.nii.gz"),
    "D": ("patient_d_chest_v1/dicom", "patient_d_chest_v1/totalsegmentator_v1_one_file_per_organ"),
}
QUESTIONS = ("liver: fatty liver", "gallstones?", "right kidney: renal stone", "left kidney: renal cyst",
             "splenomegaly?", "aortic calcification?", "lumbar spine: compression fracture")  # fmt: skip


@dataclass(frozen=True)
class Recognition:
    """How many of a scan's organs were given their own name."""

    right: int
    organs: int
    wrong: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.right} of {self.organs} ({self.right / self.organs:.0%})"


def main() -> int:
    """Walk the path on real patients."""
    parser = parser_of("real_patients", __doc__, "two steps: does it run?")
    default = os.environ.get("CTGLIP_REAL_DATA", ROOT / ".." / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of real data")
    parser.add_argument("--model", type=Path, default=ROOT / "demo-output" / "run", help="a trained run")
    parser.add_argument("--out", type=Path, default=ROOT / "real-output")
    parser.add_argument("--steps", type=int, default=60, help="steps of training on the real patients")
    options = parser.parse_args()
    if not (options.data / "ct").is_dir():
        print_note(f"There is no real data at {options.data}; set CTGLIP_REAL_DATA.")
        return 2
    if not (options.model / "model").is_dir():
        print_note(f"There is no trained run at {options.model}; run `make demo` first.")
        return 2
    found = walk(options.data, options.model, options.out, 2 if options.quick else options.steps)
    keep({name: asdict(one) for name, one in found.items()}, options.json)
    return 0


def walk(data: Path, model: Path, out: Path, steps: int) -> dict[str, Recognition]:
    """Cohort, store, questions, training, questions: the organs recognised before and after."""
    cohort = write_cohort(data, out)
    ctglip("preprocess", cohort, out / "store", "--config", "preprocess/demo_3mm",
           "--set", "ct.align_masks_by_index=true")  # fmt: skip
    scan, masks = (data / "ct" / path for path in PATIENTS["A"])
    asked = [part for question in QUESTIONS for part in ("--ask", question)]
    learned = learned_organs(model)
    before, before_all = recognise(model, scan, masks, learned), recognise(model, scan, masks)
    ctglip("query", model, scan, "--masks", masks, *asked, "--out", out / "before")
    run = out / "run"
    ctglip("pretrain", out / "store", run, "--config", "small/ctglip_cnn", "--set", f"loop.steps={steps}",
           "--set", f"initial={model}", "--set", "data.unmentioned_as_negative=false",
           *(["--resume"] if run.exists() else []))  # fmt: skip
    after, after_all = recognise(run, scan, masks, learned), recognise(run, scan, masks)
    ctglip("query", run, scan, "--masks", masks, *asked, "--out", out / "after")
    print_line("\nTop-1 organ recognition on patient A, among all names of the dictionary:")
    print_line(f"  organs that the demo's model was trained on:   before {before}, after {after}")
    print_line(f"  every organ, group and shell that is present:  before {before_all}, after {after_all}")
    print_line(
        f"Before: simulated bodies alone. After: {steps} steps on patients A, B and D, so this shows a fit, not skill."
    )
    print_line(f"Confused before: {', '.join(f'{true} for {said}' for true, said in before.wrong[:6]) or 'none'}")
    print_line(f"Pages with the real masks: {out / 'before' / 'scan.html'} and {out / 'after' / 'scan.html'}")
    return {"before": before, "after": after, "before, every organ": before_all, "after, every organ": after_all}


def write_cohort(data: Path, out: Path) -> Path:
    """The cohort table of patients A, B and D, with stand-in reports."""
    reports = stand_in_reports(data)
    print_line("Patients A, B and D come without reports of their own. Stand-in text, real reports of OTHER patients:")
    for name, text in reports.items():
        print_line(f"  {name}: {text[:90].strip()!r} ...")
    rows = [
        {"study_id": f"patient-{name}", "patient_id": name, "image": str((data / "ct" / image).resolve()),
         "masks": str((data / "ct" / masks).resolve()), "report": reports[name], "split": "train"}
        for name, (image, masks) in PATIENTS.items()
    ]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_csv(out / "cohort.csv")
    return out / "cohort.csv"


def stand_in_reports(data: Path) -> dict[str, str]:
    """Real findings of the right body region: two abdominal reports and one chest report."""
    abdomen = pl.read_csv(data / "reports" / "radiologist_notes" / "report_examples.csv", encoding="utf8-lossy")
    chest = pl.read_csv(data / "reports" / "chest_ct_reports" / "reports.csv")
    first, second = (f"FINDINGS: {text}" for text in abdomen["Findings"].drop_nulls().to_list()[:2])
    return {"A": first, "B": second, "D": f"FINDINGS: {chest['Findings_EN'].drop_nulls()[0]}"}


def learned_organs(model: Path) -> frozenset[str]:
    """The organs that a model was trained on."""
    from ctglip.api import load_model

    return frozenset(load_model(model).trained)


def recognise(model: Path, scan: Path, masks: Path, wanted: frozenset[str] = frozenset()) -> Recognition:
    """Name each organ of a scan, whole or cut, among all the names that the model knows; all organs or the wanted."""
    from ctglip.api import load_model
    from ctglip.inference.readers import InMemory

    pipeline = load_model(model)
    names = pipeline.release.organs
    standardized = pipeline.standardize(scan, masks)
    rows = [row for row in standardized.rows if row.organ in (wanted or names)]
    crops = pipeline.reader.prepare(InMemory(standardized), rows)
    said = pipeline.scorer.recognise(pipeline.reader.encode([crops], [rows]).anatomy)
    wrong = tuple((row.organ, names[i]) for row, i in zip(rows, said.tolist(), strict=True) if row.organ != names[i])
    return Recognition(len(rows) - len(wrong), len(rows), wrong)


def ctglip(*arguments: object) -> None:
    """Run one command as a user would."""
    words = [str(argument) for argument in arguments]
    print_line(f"\n$ {shlex.join(['ctglip', *words])}")
    subprocess.run([sys.executable, "-m", "ctglip", *words], check=True)


if __name__ == "__main__":
    sys.exit(main())
