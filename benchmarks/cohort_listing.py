"""Measure how long a data set takes to be listed: an invented CT-RATE of tiny files with its tables.

``cohort_listing.py [--quick] [--json FILE] [--volumes N] [--folder DIR]``; the tree is removed again. Prints seconds,
and the highest memory of a process of its own that lists it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

LABELS = [
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis", "Lung nodule",
    "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern",
    "Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening",
]  # fmt: skip
OTHER = 32
"""Columns of the metadata table that are not read."""
SENTENCE = "No consolidation is seen in the lung parenchyma; the heart and mediastinal vessels are of normal width. "


def write_tree(root: Path, volumes: int, version: int) -> None:
    """A tree of CT-RATE's shape: about two reconstructions a study, twelve studies of ten patients."""
    names: dict[str, list[str]] = {"train": [], "valid": []}
    for number in range(volumes):
        split = "valid" if number % 16 == 0 else "train"
        patient, scan, reconstruction = number // 24 * 10 + number % 20 // 2, "ab"[number % 24 // 20], number % 2 + 1
        names[split].append(f"{split}_{patient}_{scan}_{reconstruction}")
    for split, found in names.items():
        found[:] = list(dict.fromkeys(found))
        folder = root / "dataset" / (split if version == 1 else f"{split}_fixed")
        for name in found:
            path = folder / name.rsplit("_", 2)[0] / name.rsplit("_", 1)[0] / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\x1f\x8b")
        write_tables(root, split, [f"{name}.nii.gz" for name in found])


def write_tables(root: Path, split: str, names: list[str]) -> None:
    """Reports of about 1,500 characters, 44 columns of metadata and 18 labels."""
    count, other = len(names), "train" if split == "train" else "validation"
    metadata = {
        "VolumeName": names, "Manufacturer": ["Siemens Healthineers"] * count, "PatientAge": ["063Y"] * count,
        "ConvolutionKernel": [f"['Br{40 + k % 2 * 20}f', '3']" for k in range(count)],
        "ImagePositionPatient": ["[-172.5, -310.2, -801.5]"] * count,
        "ImageOrientationPatient": ["[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]"] * count, "XYSpacing": ["[0.7, 0.7]"] * count,
        "RescaleIntercept": ["-8192"] * count, "RescaleSlope": ["1"] * count, "NumberofSlices": ["300"] * count,
        "ZSpacing": ["1.5"] * count,
    }  # fmt: skip
    metadata |= {f"Other{k}": ["1.2.3.4"] * count for k in range(OTHER)}
    reports = {
        "VolumeName": names, "ClinicalInformation_EN": ["Not given."] * count, "Technique_EN": ["Axial."] * count,
        "Findings_EN": [SENTENCE * 13 + str(k) for k in range(count)], "Impressions_EN": [SENTENCE] * count,
    }  # fmt: skip
    labels = {"VolumeName": names, **{label: [str(k % 7 // 6) for k in range(count)] for label in LABELS}}
    for path, columns in (
        (f"metadata/{other}_metadata.csv", metadata),
        (f"radiology_text_reports/{other}_reports.csv", reports),
        (f"multi_abnormality_labels/{split}_predicted_labels.csv", labels),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(columns).write_csv(root / path)
    (root / "metadata" / f"no_chest_{split}.txt").write_text(names[0] + "\n")


def list_once(root: Path, out: Path, reconstructions: str) -> dict[str, Any]:
    """List the tree in this process; seconds and the highest memory of the process."""
    from ctglip.cohorts.registry import cohort_reader
    from ctglip.cohorts.writing import write_cohort

    start = time.perf_counter()
    summary = write_cohort(cohort_reader("ct_rate"), root, out, {"reconstructions": reconstructions})
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"studies": summary.studies, "seconds": round(seconds, 2), "peak_gb": round(peak, 3)}


def main() -> None:
    """Write the tree, list it in a process of its own on one core, print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=50_188)
    parser.add_argument("--quick", action="store_true", help="1,000 volumes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="where the tree is written for a while")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        root, out, reconstructions = arguments.child
        print(json.dumps(list_once(Path(root), Path(out), reconstructions)))
        return
    volumes = 1000 if arguments.quick else arguments.volumes
    results: dict[str, Any] = {"volumes": volumes}
    for version in (2, 1):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            root = Path(folder) / "CT-RATE"
            write_tree(root, volumes, version)
            for reconstructions in ("one", "all"):
                command = ["taskset", "-c", "0", sys.executable, __file__, "--child", str(root), f"{folder}/out"]
                environment = os.environ | {"POLARS_MAX_THREADS": "1"}
                done = subprocess.run([*command, reconstructions], capture_output=True, check=True, env=environment)
                results[f"version {version}, {reconstructions}"] = json.loads(done.stdout)
                print(f"version {version}, {reconstructions}:", done.stdout.decode().strip(), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
