"""Preprocessing beside its peers: one CT of 512x512x300 made from a real one, the same run, the same target grid.

    python benchmarks/preprocessing.py [--quick] [--json FILE] [--only SECTION] [--ct CT --masks MASKS]

Every figure comes from a child process of its own, bound to one or two CPUs: the best of two runs after a first one,
seconds on the clock and seconds of CPU (which a busy machine changes less), and the most memory the process ever had,
imports included. Peers that are not installed are named and left out (extra ``[bench]``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CTGLIP_REAL_DATA", HERE.parents[1] / "shared" / "data")) / "ct" / "patient_a_abdomen"
RECIPES = ("preprocess/organ_crops", "preprocess/whole_scan_1.5x1.5x3")
CONTENDERS = (
    "ours: image, masks, checks, organ table, write",
    "ours, cropped to the body as by default",
    "ours: image only, not written",
    "merlin-vlm: image",
    "merlin-vlm: image and masks",
    "torchio: image",
    "torchio: image and masks",
    "nibabel + scipy: image",
    "nibabel + scipy: image and masks",
)
NOISE_HU = 8.0
"""Puts back the noise that upsampling takes away; the file then zips to about half, as CT does."""


def make_scan(folder: Path, shape: tuple[int, int, int], ct: Path, masks: Path) -> None:
    """``ct.nii.gz`` and ``masks.nii.gz`` of the wanted shape, with a round field of view, in DICOM's order (LPS)."""
    import nibabel as nib
    from isal import igzip

    from ctglip.ct.resample import to_grid

    source, drawn = (nib.as_closest_canonical(nib.load(path)) for path in (ct, masks))  # pyright: ignore[reportArgumentType]
    size = np.array(source.shape) * np.array(source.header.get_zooms()[:3])
    edges = np.array([max(size[:2])] * 2 + [size[2]]) / shape
    affine = np.diag([-edges[0], -edges[1], edges[2], 1.0])
    centre = source.affine[:3, :3] @ ((np.array(source.shape) - 1) / 2) + source.affine[:3, 3]
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    hu = to_grid(np.asarray(source.dataobj).astype(np.int16), source.affine, shape, affine, fill=-1024)
    labels = to_grid(np.asarray(drawn.dataobj).astype(np.uint8), drawn.affine, shape, affine, labels=True)
    rng = np.random.default_rng(0)
    for k in range(shape[2]):
        noise = np.rint(rng.normal(0, NOISE_HU, shape[:2])).astype(np.int16)
        hu[:, :, k] = np.clip(hu[:, :, k] + noise, -1024, 3071)
    x, y = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    hu[x * x + y * y > 1] = -1024
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("ct", hu), ("masks", labels)):
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code=1)
        (folder / f"{name}.nii.gz").write_bytes(igzip.compress(image.to_bytes(), 1))


def child(action: str, threads: int, **details: Any) -> dict[str, Any]:
    """What ``preprocessing_parts.py`` measures in a process of its own with so many CPUs and threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads)), "CTGLIP_BENCH_THREADS": str(threads)}
    command = [sys.executable, HERE / "preprocessing_parts.py", action, json.dumps(details)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][-200:]}
    return json.loads(done.stdout.splitlines()[-1])


def missing(name: str) -> str:
    """What a contender lacks, in words; empty when it can run."""
    package = {"merlin-vlm": "merlin", "torchio": "torchio"}.get(name.split(":")[0])
    return "" if package is None or importlib.util.find_spec(package) else "not installed (extra [bench])"


def volumes(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Seconds and memory a volume, ours and the peers'."""
    rows: list[dict[str, Any]] = []
    for recipe in RECIPES[1:] if quick else RECIPES:
        for threads in (1,) if quick else (1, 2):
            print(f"\n{recipe}, {threads} thread{'s' * (threads > 1)}")
            print(f"{'':48s} {'s/volume':>9s} {'s of CPU':>9s} {'peak MB':>8s} {'imports':>8s}  grid", flush=True)
            for name in CONTENDERS:
                lack = missing(name)
                found = (
                    {"error": lack}
                    if lack
                    else child(
                        "volume", threads, name=name, folder=str(folder), recipe=recipe, repeats=1 if quick else 2
                    )
                )
                rows.append({"recipe": recipe, "threads": threads, "name": name, **found})
                print(f"{name:48s} {_line(found)}", flush=True)
    return rows


def _line(found: dict[str, Any]) -> str:
    if "error" in found:
        return found["error"]
    times = f"{found['seconds']:9.2f} {found['cpu_seconds']:9.2f} {found['peak_mb']:8.0f} {found['imports_mb']:8.0f}"
    return f"{times}  {'x'.join(map(str, found['grid']))}"


def parts(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Each part of ours beside the least that it can take."""
    recipe = RECIPES[1 if quick else 0]
    found = child("parts", 1, folder=str(folder), recipe=recipe, repeats=1 if quick else 5)
    if "error" in found:
        print(found["error"])
        return [found]
    print(
        f"\nparts of ours, {recipe}, 1 thread, seconds of CPU\n{'':34s} {'part':>7s} {'floor':>7s}  what the floor is"
    )
    for row in found["parts"]:
        print(f"{row['part']:34s} {row['seconds']:7.3f} {row['floor_seconds']:7.3f}  {row['floor']}")
    total = [sum(row[key] for row in found["parts"]) for key in ("seconds", "floor_seconds")]
    print(f"{'sum':34s} {total[0]:7.3f} {total[1]:7.3f}", flush=True)
    return found["parts"]


def workers(folder: Path, quick: bool) -> dict[str, Any]:
    """The same studies by one worker and by two, and what Ray costs a study."""
    studies = 6 if quick else 16
    runs = {
        "one worker, no Ray": child("cohort", 1, folder=str(folder), studies=studies, workers=1),
        "two workers": child("cohort", 1, folder=str(folder), studies=studies, workers=2),
    }
    print(f"\n{studies} studies{'':36s} {'s/study':>9s} {'s in all':>9s}  (a study: without start and first round)")
    for name, found in runs.items():
        shown = found.get("error") or f"{found['seconds_per_study']:9.3f} {found['seconds']:9.1f}"
        print(f"{name:48s} {shown}", flush=True)
    result: dict[str, Any] = {"runs": runs, "handing": child("handing", 1, studies=200 if quick else 2000)}
    if not any("error" in found for found in runs.values()):
        one, two = (found["seconds_per_study"] for found in runs.values())
        result["scaling"] = one / two
        print(f"1 -> 2 workers: {one / two:.2f}x")
    ray = result["handing"]
    print(
        ray.get("error")
        or f"Ray: {ray['overhead_ms']:.1f} ms a study ({ray['ray_driver_cpu_ms']:.1f} ms of the driver's CPU), "
        f"{ray['start_seconds']:.1f} s to start",
        flush=True,
    )
    return result


def reading(folder: Path, quick: bool) -> dict[str, Any]:
    """One organ's crop from the store beside the whole NIfTI file."""
    found = child("reading", 1, folder=str(folder), recipe=RECIPES[0], repeats=2 if quick else 5)
    if "error" in found:
        print(found["error"])
        return found
    print(f"\nreading, files in the system's cache{'':12s} {'ms':>9s} {'CPU ms':>9s} {'MB read':>9s}")
    for row in found["rows"]:
        print(f"{row['what']:48s} {row['ms']:9.2f} {row['cpu_ms']:9.2f} {row['bytes'] / 1e6:9.2f}")
    print(
        f"whole file / median organ: {found['times_faster']:.0f}x the ms, {found['times_fewer_bytes']:.0f}x the bytes"
    )
    return found


SECTIONS = {"volumes": volumes, "parts": parts, "workers": workers, "reading": reading}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller scan, one grid, one thread: under 3 minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--ct", type=Path, default=DATA / "ct.nii.gz", help="the real CT that the scan is made from")
    parser.add_argument("--masks", type=Path, default=DATA / "totalsegmentator_v2.nii.gz", help="its masks")
    asked = parser.parse_args()
    for path in (asked.ct, asked.masks):
        if not path.is_file():
            parser.error(f"there is no {path}; name a CT and its masks with --ct and --masks, or set CTGLIP_REAL_DATA")
    with tempfile.TemporaryDirectory(prefix="ctglip_bench_") as name:
        folder = Path(name)
        shape = (256, 256, 160) if asked.quick else (512, 512, 300)
        make_scan(folder, shape, asked.ct, asked.masks)
        megabytes = (folder / "ct.nii.gz").stat().st_size / 1e6
        print(f"{'x'.join(map(str, shape))} int16, {megabytes:.1f} MB zipped; {os.cpu_count()} CPUs here")
        result: dict[str, Any] = {"shape": shape, "zipped_mb": megabytes, "cpus": os.cpu_count()}
        for section, measure in SECTIONS.items():
            if asked.only in (None, section):
                result[section] = measure(folder, asked.quick)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
