"""The processes in which ``preprocessing.py`` measures: ``preprocessing_parts.py ACTION JSON``.

Not for calling by hand. The last line on stdout is the answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

THREADS = int(os.environ.get("CTGLIP_BENCH_THREADS", "1"))
STUDY = "bench"
Work = Callable[[], tuple[int, ...]]


def memory_mb(field: str) -> float:
    """A line of this process's status in MB: VmHWM, the most it ever had, or VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def best(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """The least seconds on the clock and of CPU, after a first run that does not count."""
    work()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


# -- one volume


def volume(name: str, folder: str, recipe: str, repeats: int) -> dict[str, Any]:
    who, _, what = name.partition(":")
    builders = {"merlin-vlm": merlin, "torchio": torchio, "nibabel + scipy": plain}
    scan = Path(folder)
    with tempfile.TemporaryDirectory(prefix="ctglip_bench_store_") as store:
        if who in builders:
            work = builders[who](scan, settings(recipe).ct.spacing_mm, "masks" in what)
        else:
            work = ours(scan, Path(store), recipe, body="body" in name, whole="only" not in what)
        imports = memory_mb("VmRSS")
        wall, cpu = best(work, repeats)
        peak = memory_mb("VmHWM")
        return {"seconds": wall, "cpu_seconds": cpu, "peak_mb": peak, "imports_mb": imports, "grid": work()}


def settings(recipe: str, body: bool = False) -> Any:
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.config import load_settings

    return load_settings(PreprocessConfig, recipe, [f"ct.crop_to_body={str(body).lower()}"])


def ours(scan: Path, store: Path, recipe: str, body: bool, whole: bool) -> Work:
    """A study from its files into a store, or its image alone onto the grid."""
    from ctglip_preprocessing.case import Case, Plan, run_case

    from ctglip.cohort import CohortRow
    from ctglip.ct.io import read_scan
    from ctglip.ct.standardize import standardize
    from ctglip.store.study import StudyReader
    from ctglip.vocabulary.organs import load_organs

    config = settings(recipe, body)
    row = CohortRow(study_id=STUDY, patient_id="p", image=scan / "ct.nii.gz", masks=scan / "masks.nii.gz")
    (store / "studies").mkdir(exist_ok=True)
    target = store / "studies" / f"{STUDY}.zarr"

    def all_of_it() -> tuple[int, ...]:
        if target.exists():
            shutil.rmtree(target)
        result = run_case(Case(row, Plan(store, config, "bench", requires_report=False)))
        assert result.status == "done", result.failure
        return StudyReader(target).shape

    def image_alone() -> tuple[int, ...]:
        read, _ = read_scan(row.image, config.ct)
        return standardize(read, None, config.ct, load_organs()).image.shape

    return all_of_it if whole else image_alone


def merlin(scan: Path, spacing: tuple[float, ...], masks: bool) -> Work:
    """merlin-vlm's published transforms; at another spacing and with masks the same list rebuilt."""
    import torch
    from merlin.data.monai_transforms import ImageTransforms  # pyright: ignore[reportMissingImports]
    from monai import transforms as mt

    torch.set_num_threads(THREADS)
    data = {"image": str(scan / "ct.nii.gz")} | ({"masks": str(scan / "masks.nii.gz")} if masks else {})
    keys = list(data)
    steps: Any = ImageTransforms
    if masks or tuple(spacing) != (1.5, 1.5, 3.0):
        size = [224, 224, round(160 * 3 / spacing[2])]
        steps = mt.Compose(
            [
                mt.LoadImaged(keys=keys),
                mt.EnsureChannelFirstd(keys=keys),
                mt.Orientationd(keys=keys, axcodes="RAS"),
                mt.Spacingd(keys=keys, pixdim=spacing, mode=("bilinear", "nearest")[: len(keys)]),
                mt.ScaleIntensityRanged(keys=["image"], a_min=-1000, a_max=1000, b_min=0.0, b_max=1.0, clip=True),
                mt.SpatialPadd(keys=keys, spatial_size=size),
                mt.CenterSpatialCropd(keys=keys, roi_size=size),
                mt.ToTensord(keys=keys),
            ]
        )
    return lambda: tuple(steps(data)["image"].shape[1:])


def torchio(scan: Path, spacing: tuple[float, ...], masks: bool) -> Work:
    import torch
    import torchio as tio  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(THREADS)
    steps = tio.Compose([tio.ToCanonical(), tio.Resample(spacing), tio.Clamp(-1000, 1000)])

    def work() -> tuple[int, ...]:
        images = {"image": tio.ScalarImage(scan / "ct.nii.gz")}
        subject = tio.Subject(**images, **({"masks": tio.LabelMap(scan / "masks.nii.gz")} if masks else {}))
        return tuple(steps(subject)["image"].data.shape[1:])

    return work


def plain(scan: Path, spacing: tuple[float, ...], masks: bool) -> Work:
    """What most people write first."""
    import nibabel as nib
    import numpy as np
    from scipy import ndimage

    def resampled(name: str, dtype: type, order: int) -> np.ndarray:
        image = nib.as_closest_canonical(nib.load(scan / f"{name}.nii.gz"))  # pyright: ignore[reportArgumentType]
        factors = np.array(image.header.get_zooms()[:3]) / spacing
        return ndimage.zoom(np.asarray(image.dataobj, dtype=dtype), factors, order=order)

    def work() -> tuple[int, ...]:
        hu = np.clip(resampled("ct", np.float32, 1), -1000, 1000)
        if masks:
            resampled("masks", np.uint8, 0)
        return hu.shape

    return work


# -- parts and floors


def parts(folder: str, recipe: str, repeats: int) -> dict[str, Any]:
    import numpy as np
    from ctglip_preprocessing.case import Case, Plan, hash_input
    from isal import igzip
    from numcodecs import blosc  # pyright: ignore[reportAttributeAccessIssue]

    from ctglip.cohort import CohortRow
    from ctglip.ct.geometry import regrid
    from ctglip.ct.io import read_scan
    from ctglip.ct.mask_checks import check_masks
    from ctglip.ct.masks import read_masks
    from ctglip.ct.organs import organ_table
    from ctglip.ct.quality import check_scan
    from ctglip.ct.resample import to_grid
    from ctglip.store.study import SourceGrid, StudyRecord, write_study
    from ctglip.types import Standardized
    from ctglip.vocabulary.organs import load_organs

    image_path, masks_path = (Path(folder) / f"{name}.nii.gz" for name in ("ct", "masks"))
    zipped, zipped_masks = image_path.read_bytes(), masks_path.read_bytes()
    row = CohortRow(study_id=STUDY, patient_id="p", image=image_path, masks=masks_path)
    case = Case(row, Plan(Path(folder), settings(recipe), "bench", requires_report=False))
    wanted, organs = settings(recipe).ct, load_organs()
    scan, _ = read_scan(image_path, wanted)
    masks, _ = read_masks(masks_path, scan, wanted, organs)
    x, y, z = scan.hu.shape
    shape, affine = regrid(scan.affine, (0, x, 0, y, 0, z), wanted.spacing_mm)
    low, _ = clip = wanted.hu_clip
    image_on_grid = partial(to_grid, scan.hu, scan.affine, shape, affine, fill=low, clip=clip)
    labels_on_grid = partial(to_grid, masks.labels, scan.affine, shape, affine, labels=True)
    image, labels = image_on_grid(), labels_on_grid()
    rows = organ_table(labels, image, affine, organs)
    study = Standardized(image, labels, affine, rows)
    record = StudyRecord(STUDY, "p", study, "", "", source=SourceGrid(scan.hu.shape, scan.affine))
    store = Path(tempfile.mkdtemp(prefix="ctglip_bench_store_"))

    def compressed() -> None:
        for array in (image, labels):
            (store / "floor").write_bytes(blosc.compress(array, b"zstd", 1, blosc.BITSHUFFLE, 0))

    blosc.set_nthreads(1)
    measured: list[tuple[str, Callable[[], Any], str, Callable[[], Any]]] = [
        ("hash the input", lambda: hash_input(case), "SHA-256 in memory", lambda: hashlib.sha256(zipped).digest()),
        ("read the image, check HU", lambda: read_scan(image_path, wanted), "isal gunzip in memory",
         lambda: igzip.decompress(zipped)),
        ("  of which checks", lambda: check_scan(scan), "none needed", lambda: None),
        ("read the masks", lambda: read_masks(masks_path, scan, wanted, organs), "isal gunzip in memory",
         lambda: igzip.decompress(zipped_masks)),
        ("image onto the grid", image_on_grid, "every voxel to float32 once", lambda: scan.hu.astype(np.float32)),
        ("labels onto the grid", labels_on_grid, "the result copied once", labels.copy),
        ("organ table, mask checks", lambda: check_masks(organ_table(labels, image, affine, organs)),
         "one count of the labels", lambda: np.bincount(labels.ravel(), minlength=256)),
        ("write", lambda: write_study(store, record), "Blosc zstd-1 in one go, and write", compressed),
    ]  # fmt: skip
    found = [
        {"part": part, "seconds": best(work, repeats)[1], "floor": floor, "floor_seconds": best(least, repeats)[1]}
        for part, work, floor, least in measured
    ]
    shutil.rmtree(store)
    return {"parts": found}


# -- many studies


def cohort(folder: str, studies: int, workers: int) -> dict[str, Any]:
    """A cohort of copies, from files to store."""
    from ctglip_preprocessing.driver import preprocess_cohort

    from ctglip.cohort import read_cohort

    ends: list[float] = []

    def watch(results: Any, _: int) -> Any:
        for result in results:
            assert result.status == "done", result.failure
            yield result
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="ctglip_bench_store_") as name:
        table = Path(name) / "cohort.csv"
        files = f"{folder}/ct.nii.gz,{folder}/masks.nii.gz"
        lines = [f"s{number:04},p{number},{files},The liver is enlarged." for number in range(studies)]
        table.write_text("\n".join(["study_id,patient_id,image,masks,report", *lines]))
        config, start = settings("preprocess/organ_crops", body=True), time.perf_counter()
        preprocess_cohort(read_cohort(table), Path(name) / "store", config, workers, watch=watch)
    each = (ends[-1] - ends[workers - 1]) / (len(ends) - workers)  # the first round holds start and imports
    return {"studies": studies, "seconds_per_study": each, "seconds": ends[-1] - start}


def handing(studies: int) -> dict[str, Any]:
    """Studies that fail at once, worked on here and by one Ray worker: what is left is the handing to and fro."""
    import ray
    from ctglip_preprocessing.case import Case, Plan
    from ctglip_preprocessing.executor import execute

    from ctglip.cohort import CohortRow

    plan = Plan(Path("/nowhere"), settings("preprocess/organ_crops"), "bench", requires_report=False)
    rows = (CohortRow(study_id=f"s{n}", patient_id="p", image=Path("/nowhere")) for n in range(studies))
    cases = [Case(row, plan) for row in rows]
    found = {}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    start = time.perf_counter()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    found["start_seconds"] = time.perf_counter() - start
    for name, address in (("here", None), ("ray", "local")):
        results = execute(cases, 1, address)
        for _ in range(10):
            next(results)
        wall, cpu = time.perf_counter(), time.process_time()
        left = sum(1 for _ in results)
        found[f"{name}_ms"] = 1000 * (time.perf_counter() - wall) / left
        found[f"{name}_driver_cpu_ms"] = 1000 * (time.process_time() - cpu) / left
    ray.shutdown()
    return found | {"overhead_ms": found["ray_ms"] - found["here_ms"]}


# -- reading


def reading(folder: str, recipe: str, repeats: int) -> dict[str, Any]:
    import nibabel as nib
    import numpy as np

    from ctglip.store.study import StudyReader, organ_row

    scan = Path(folder)
    with tempfile.TemporaryDirectory(prefix="ctglip_bench_store_") as name:
        ours(scan, Path(name), recipe, body=True, whole=True)()
        path = Path(name) / "studies" / f"{STUDY}.zarr"
        study = StudyReader(path)
        found = []
        for row in [organ_row(columns) for columns in study.rows("organs")]:
            works: dict[str, Callable[[], Any]] = {
                f"{row.organ}, study open": lambda box=row.box: (study.image(box), study.organs(box)),
                f"{row.organ}, study opened anew": lambda box=row.box: (lambda s: (s.image(box), s.organs(box)))(
                    StudyReader(path)
                ),
            }
            found += [_read(what, work, repeats) for what, work in works.items()]
        whole = _read("whole volume from the store", lambda: (study.image(), study.organs()), repeats)
    nifti = _read("whole .nii.gz, nibabel", lambda: np.asarray(nib.load(scan / "ct.nii.gz").dataobj), repeats)  # pyright: ignore[reportArgumentType]
    opened = [row for row in found if row["what"].endswith("open")]
    median = {key: statistics.median(row[key] for row in opened) for key in ("ms", "cpu_ms", "bytes")}
    shown = [row for row in found if row["what"].split(",")[0] in ("kidney_left", "spleen", "liver")]
    return {
        "rows": [{"what": f"median of {len(opened)} organs, study open", **median}, *shown, whole, nifti],
        "organs": found,
        "times_faster": nifti["ms"] / median["ms"],
        "times_fewer_bytes": nifti["bytes"] / median["bytes"],
    }


def _read(what: str, work: Callable[[], Any], repeats: int) -> dict[str, Any]:
    wall, cpu = best(work, repeats)
    before = _bytes_read()
    work()
    return {"what": what, "ms": 1000 * wall, "cpu_ms": 1000 * cpu, "bytes": _bytes_read() - before}


def _bytes_read() -> int:
    with closing(Path("/proc/self/io").open()) as stream:
        return int(stream.readline().split()[1])


if __name__ == "__main__":
    action, details = sys.argv[1], json.loads(sys.argv[2])
    if action in ("volume", "parts", "reading"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:THREADS]))
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        "volume": volume, "parts": parts, "cohort": cohort, "handing": handing, "reading": reading,
    }  # fmt: skip
    print(json.dumps(actions[action](**details)))
