"""Simulated scans beside real ones: each organ's HU, and the noise.

    python -m experiments.realism [--quick] [--json FILE] [--data DIR] [--studies N]

Needs the folder of real data (``CTGLIP_REAL_DATA``, default ``../shared/data``). HU: mean and standard deviation inside
the organ's mask, shrunk by 3 mm. Noise: squares of 30 mm inside the liver (the lung where there is no liver), sampled
at 2.5 mm, a plane subtracted from each; the deviation, and the share of the power above 0.1 cycles/mm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ctglip.cli.console import print_line
from experiments.command import keep, parser_of

ROOT = Path(__file__).resolve().parents[2]
ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "aorta", "heart", "lung_lower_lobe_left", "vertebrae_L1",
          "autochthon_left")  # fmt: skip
REAL = {  # scan, masks, phase, {number: organ} where the masks are not TotalSegmentator's
    "A": ("patient_a_abdomen/ct.nii.gz", "patient_a_abdomen/totalsegmentator_v2.nii.gz", "native", None),
    "B": ("patient_b_dicom/dicom", "patient_b_dicom/totalsegmentator_v2.nii.gz", "unknown", None),
    "D": ("patient_d_chest_v1/dicom", "patient_d_chest_v1/totalsegmentator_v1_one_file_per_organ", "unknown", None),
    "G": ("patient_g_liver/ct_3mm.nii.gz", "patient_g_liver/eight_organs_3mm.nii.gz", "portal",
          {1: "spleen", 3: "kidney_left", 6: "liver"}),
    "H": ("patient_h_liver/ct_3mm.nii.gz", "patient_h_liver/eight_organs_3mm.nii.gz", "portal",
          {1: "spleen", 3: "kidney_left", 6: "liver"}),
}  # fmt: skip
Spacing = tuple[float, float, float]
GRID_MM, SQUARE, _SHRUNK_MM = 2.5, 12, 3


@dataclass(frozen=True)
class Measured:
    """One scan: phase, (mean, deviation) of HU by organ, deviation of the noise, its share above 0.1 cycles/mm."""

    name: str
    phase: str
    hu: dict[str, tuple[float, float]]
    noise_hu: float | None
    fine: float | None


def measure(name: str, phase: str, hu: np.ndarray, labels: np.ndarray, spacing: Spacing) -> Measured:
    """Measure a scan ``[x, y, z]`` with TotalSegmentator v2 numbers on its grid."""
    from ctglip.simulation.labels import lookup, number
    from ctglip.simulation.scene import depth_mm

    found = {}
    for organ in ORGANS:
        inside = depth_mm(labels == number(organ), spacing) > _SHRUNK_MM
        if inside.sum() * np.prod(spacing) > 3000:
            found[organ] = (float(hu[inside].mean()), float(hu[inside].std()))
    liver = labels == number("liver")
    tissue = liver if liver.sum() * np.prod(spacing) > 1e5 else lookup(["lungs"])[labels]
    return Measured(name, phase, found, *noise(hu, depth_mm(tissue, spacing) > _SHRUNK_MM, spacing))


def noise(hu: np.ndarray, mask: np.ndarray, spacing: Spacing) -> tuple[float | None, float | None]:
    """Deviation of the noise, and the share of its power above 0.1 cycles/mm."""
    squares = list(_squares(hu, mask, spacing))
    if len(squares) < 5:
        return None, None
    power = np.mean([np.abs(np.fft.fft2(square)) ** 2 for square in squares], axis=0)
    frequency = np.abs(np.fft.fftfreq(SQUARE, GRID_MM))
    above = np.hypot(frequency[:, None], frequency[None, :]) > 0.1
    return float(np.median([square.std() for square in squares])), float(power[above].sum() / power.sum())


def _squares(hu: np.ndarray, mask: np.ndarray, spacing: Spacing) -> Iterator[np.ndarray]:
    """Squares of a slice that lie inside of the mask, a plane subtracted."""
    factors = (spacing[0] / GRID_MM, spacing[1] / GRID_MM)
    plane = np.stack([np.ones(SQUARE**2), *np.mgrid[:SQUARE, :SQUARE].reshape(2, -1)], 1)
    step = max(1, round(5 / spacing[2]))
    for z in np.flatnonzero(mask.any((0, 1)))[::step]:
        slice_hu, inside = hu[:, :, z].astype(np.float32), mask[:, :, z].astype(np.float32)
        if max(factors) < 0.99:
            slice_hu = ndimage.gaussian_filter(slice_hu, [0.35 / factor for factor in factors])
        if abs(factors[0] - 1) > 0.01:
            slice_hu, inside = (np.asarray(ndimage.zoom(part, factors, order=1)) for part in (slice_hu, inside))
        for x in range(0, inside.shape[0] - SQUARE, SQUARE // 2):
            for y in range(0, inside.shape[1] - SQUARE, SQUARE // 2):
                if inside[x : x + SQUARE, y : y + SQUARE].min() > 0.5:
                    square = slice_hu[x : x + SQUARE, y : y + SQUARE].reshape(-1)
                    yield (square - plane @ np.linalg.lstsq(plane, square, rcond=None)[0]).reshape(SQUARE, SQUARE)


def real(data: Path) -> Iterator[Measured]:
    """The real scans."""
    from ctglip.ct.io import read_scan
    from ctglip.ct.masks import read_masks
    from ctglip.ct.recipe import CtRecipe
    from ctglip.simulation.labels import number
    from ctglip.vocabulary.organs import load_organs

    recipe = CtRecipe(align_masks_by_index=True)
    for name, (image, masks, phase, numbers) in REAL.items():
        scan, _ = read_scan(data / "ct" / image, recipe)
        if numbers is None:
            labels = read_masks(data / "ct" / masks, scan, recipe, load_organs())[0].labels
        else:
            import nibabel as nib

            file: Any = nib.as_closest_canonical(nib.load(data / "ct" / masks))  # type: ignore[attr-defined]
            drawn = np.asarray(file.dataobj)
            labels = np.zeros(drawn.shape, np.uint8)
            for value, organ in numbers.items():
                labels[drawn == value] = number(organ)
        yield measure(f"patient {name}", phase, scan.hu, labels, scan.spacing_mm)


def simulated(level: str, studies: int) -> Iterator[Measured]:
    """Healthy studies of a level."""
    from ctglip.simulation.levels import level_settings
    from ctglip.simulation.study import simulate_study

    settings = level_settings(level)  # type: ignore[arg-type]
    for index in range(studies):
        study = simulate_study(77, index, settings, pairs=())
        words = study.about or {"phase": "any"}
        yield measure(f"{level} {index}", words["phase"], study.scan.hu, study.labels.labels, study.scan.spacing_mm)


def summary(found: list[Measured]) -> list[str]:
    """Lines of a table: real scans one by one, simulated ones by level and phase as mean (range)."""
    groups: dict[str, list[Measured]] = {}
    for one in found:
        name = one.name if one.name.startswith("patient") else f"{one.name.split()[0]} x {{}}"
        groups.setdefault(f"{name}, {one.phase}", []).append(one)
    lines = [f"| scan | {' | '.join(ORGANS)} | noise HU | power above 0.1/mm |", "|---" * (len(ORGANS) + 3) + "|"]
    for name, scans in sorted(groups.items()):
        cells = []
        for organ in ORGANS:
            values = [scan.hu[organ] for scan in scans if organ in scan.hu]
            cells.append(
                f"{np.mean([v[0] for v in values]):.0f} ± {np.mean([v[1] for v in values]):.0f}" if values else ""
            )
        for field in ("noise_hu", "fine"):
            values = [getattr(scan, field) for scan in scans if getattr(scan, field) is not None]
            digits = 1 if field == "noise_hu" else 2
            spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.{digits}f}{spread}" if values else "")
        lines.append(f"| {name.format(len(scans))} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, print the table, keep the figures."""
    parser = parser_of("realism", __doc__, "four studies a level")
    default = Path(os.environ.get("CTGLIP_REAL_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of real data")
    parser.add_argument("--studies", type=int, default=40, help="simulated studies of each level")
    asked = parser.parse_args()
    studies = 4 if asked.quick else asked.studies
    found = [*real(asked.data), *(one for level in ("easy", "hard") for one in simulated(level, studies))]
    print_line("\n".join(summary(found)))
    keep([asdict(one) for one in found], asked.json)


if __name__ == "__main__":
    main()
