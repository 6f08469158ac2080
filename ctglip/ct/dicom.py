"""A DICOM series as one volume: slices sorted by place, doubles dropped, gaps found, numbers scaled slice by slice.

Pixels are decoded by pydicom with whatever decoder is installed (gdcm, pylibjpeg, imagecodecs through plug-ins).
Errors and checks carry counts and millimetres, never header text or file names.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from ctglip.ct.dicom_headers import Series, Slice, choose_series, read_dicom
from ctglip.ct.dicom_tags import syntax_name
from ctglip.ct.dicom_volumes import one_volume
from ctglip.ct.geometry import LPS_TO_RAS
from ctglip.ct.intensity import AIR_HU, beyond_int16, scale_to_int16
from ctglip.ct.raw import RawVolume
from ctglip.ct.recipe import CtRecipe
from ctglip.dicom_pixels import pixels_of
from ctglip.errors import ScanError
from ctglip.files import quiet_pydicom
from ctglip.limits import check_grid, check_voxels
from ctglip.types import QualityCheck

SAME_PLACE_MM = 0.02
MAX_GAP_MM = 25.0
"""A gap wider than this is not bridged: nothing is known of what lies in it."""


def read_series(path: Path, recipe: CtRecipe) -> RawVolume:
    """One CT series of a folder, as HU on a regular grid.

    Args:
        path: folder of slices (searched below too), or one file (multi-frame).
        recipe: ``series`` chooses, ``slice_gaps`` says what happens when slices are missing.

    Raises:
        ScanError: no usable series (see ``choose_series``), ``no_volume``, ``mixed_orientation``, ``slice_sizes``,
            ``same_position``, ``single_slice``, ``slice_gap``, ``slices_shifted``, ``dicom_pixels``.
    """
    slices, checks = _slices(path, recipe)
    points = np.stack([one.position for one in slices])
    positions = points @ _normal(slices)
    source, gaps = _spacing(positions, slices, recipe)
    _check_line(positions, points)
    hu, numbers = _pixels(slices)
    if source is not None:
        hu = _regular(hu, source)
    noticed = (*checks, *gaps, *numbers)
    return RawVolume(hu.transpose(2, 1, 0), _affine(slices, positions), slices=source, checks=noticed)


def series_files(path: Path, recipe: CtRecipe) -> list[Path]:
    """The file of each slice of the series that ``read_series`` takes, in the order of its third axis.

    Raises:
        ScanError: as ``read_series``.
    """
    return [one.path for one in _slices(path, recipe)[0]]


def _slices(path: Path, recipe: CtRecipe) -> tuple[list[Slice], tuple[QualityCheck, ...]]:
    series, checks = choose_series(path, recipe.series)
    slices, dropped = _one_stack(series)
    slices, doubled = _without_doubles(slices)
    return slices, (*checks, *dropped, *doubled)


def _one_stack(series: Series) -> tuple[list[Slice], list[QualityCheck]]:
    """The largest set of slices with one orientation; a few others (localizers) are left out and counted."""
    checks: list[QualityCheck] = []
    if count := series.localizers:
        checks.append(QualityCheck("localizers", "info", f"{count} localizers were left out.", count))
    if count := series.unplaced:
        checks.append(QualityCheck("dicom_geometry", "warning", f"{count} slices say no position.", count))
    slices, more = one_volume(series.slices)
    checks += more
    main = max(_alike(slices), key=len)
    others = len(slices) - len(main)
    if others > max(3, 0.1 * len(slices)):
        raise ScanError(
            f"The series mixes orientations: {len(main)} slices one way, {others} another.",
            code="mixed_orientation",
            fix="Give the axial stack a folder of its own.",
        )
    if others:
        message = f"{others} slices of another orientation were left out."
        checks.append(QualityCheck("mixed_orientation", "warning", message, others))
    if len({s.shape for s in main}) > 1 or np.ptp([s.pixel_mm for s in main], axis=0).max() > 1e-3:
        raise ScanError(
            f"The slices of the series differ in size ({sorted({s.shape for s in main})} pixels) or pixel spacing.",
            code="slice_sizes",
            fix="Reconstruct the series with one field of view.",
        )
    return main, checks


def _alike(slices: list[Slice]) -> list[list[Slice]]:
    """Groups of slices with one orientation, within about a degree."""
    stacks: list[list[Slice]] = []
    for one in slices:
        for stack in stacks:
            if np.abs(stack[0].axes - one.axes).max() < 0.02:
                stack.append(one)
                break
        else:
            stacks.append([one])
    return stacks


def _without_doubles(slices: list[Slice]) -> tuple[list[Slice], list[QualityCheck]]:
    """Slices sorted by place, one for each place: of the acquisition with the most slices, then the first instance."""
    sizes: dict[int, int] = defaultdict(int)
    for one in slices:
        sizes[one.acquisition] += 1
    heights = [float(one.position @ _normal(slices)) for one in slices]
    points: list[list[Slice]] = []
    lowest = -np.inf
    for height, one in sorted(zip(heights, slices, strict=True), key=lambda pair: pair[0]):
        if height - lowest < SAME_PLACE_MM:
            points[-1].append(one)
        else:
            points.append([one])
            lowest = height
    distinct = [min(p, key=lambda s: (-sizes[s.acquisition], s.acquisition, s.instance, s.frame)) for p in points]
    if len(distinct) < 2 <= len(slices):
        raise ScanError(
            f"All {len(slices)} slices of the series claim the same position "
            f"({', '.join(f'{mm:.4g}' for mm in slices[0].position)} mm).",
            code="same_position",
            fix="Export the series again from where it was made.",
        )
    if len(distinct) < 2:
        raise ScanError(
            f"The series has {len(distinct)} slice, expected a volume.",
            code="single_slice",
            fix="Choose another series.",
        )
    if not (doubles := len(slices) - len(distinct)):
        return distinct, []
    message = f"{doubles} slices lie where another one lies and were left out."
    return distinct, [QualityCheck("doubled_slices", "warning", message, doubles)]


def _normal(slices: list[Slice]) -> np.ndarray:
    """The direction in which the slices are stacked, unit length."""
    axes = slices[0].axes
    normal = np.cross(axes[:3], axes[3:])
    return normal / np.linalg.norm(normal)


def _check_line(positions: np.ndarray, points: np.ndarray) -> None:
    """The first pixels must lie on one line (straight, or slanted by a gantry tilt)."""
    share = (positions - positions[0]) / (positions[-1] - positions[0])
    line = points[0] + share[:, None] * (points[-1] - points[0])
    off = float(np.linalg.norm(points - line, axis=1).max())
    if off > 2.0:
        raise ScanError(
            f"The slices are shifted against each other by up to {off:.1f} mm.",
            code="slices_shifted",
            fix="Reconstruct the series with one field of view.",
        )


def _step(positions: np.ndarray) -> float:
    """Slice distance of the regular grid over the positions."""
    median = float(np.median(np.diff(positions)))
    span = float(positions[-1] - positions[0])
    return span / max(1, round(span / median))


def _affine(slices: list[Slice], positions: np.ndarray) -> np.ndarray:
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0] = first.axes[:3] * first.pixel_mm[1]
    affine[:3, 1] = first.axes[3:] * first.pixel_mm[0]
    affine[:3, 2] = (last.position - first.position) * _step(positions) / (positions[-1] - positions[0])
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def _spacing(
    positions: np.ndarray, slices: list[Slice], recipe: CtRecipe
) -> tuple[np.ndarray | None, list[QualityCheck]]:
    """None when the slices are even, else the index of each on the regular grid, with what was found."""
    steps = np.diff(positions)
    median = float(np.median(steps))
    if np.abs(steps - median).max() <= 0.1 * median:
        return None, []
    widest = float(steps.max())
    missing = int(np.rint(steps / median - 1).clip(0).sum())
    wide = np.flatnonzero(steps > 1.1 * median)
    where = ", ".join(f"{positions[k]:.1f} to {positions[k + 1]:.1f}" for k in wide[:3])
    found = (
        f"The {len(positions)} slices are unevenly spaced: {median:.3g} mm apart, at most {widest:.3g} mm; "
        f"{missing} seem missing, in {len(wide)} gaps"
    )
    found += f" (at {where}{' ...' if len(wide) > 3 else ''} mm)." if where else "."
    if recipe.slice_gaps == "refuse" or widest > max(MAX_GAP_MM, 2.5 * median):
        raise ScanError(
            found,
            code="slice_gap",
            fix="Export the whole series"
            + (", or set slice_gaps: resample in the recipe." if recipe.slice_gaps == "refuse" else "."),
        )
    source = (positions - positions[0]) / _step(positions)
    grid = (*slices[0].shape, int(source[-1]) + 1)
    check_grid(grid, (*slices[0].shape, len(slices)), "The DICOM series, on evenly spaced slices,", ScanError)
    check = QualityCheck("slice_gap", "warning", f"{found} They were interpolated onto a regular grid.", widest)
    return source, [check]


def _regular(hu: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Linear interpolation of slices ``[n, rows, columns]`` at ``source`` onto whole indices."""
    count = round(float(source[-1])) + 1
    result = np.empty((count, *hu.shape[1:]), hu.dtype)
    below = np.clip(np.searchsorted(source, np.arange(count), side="right") - 1, 0, len(source) - 2)
    for k, i in enumerate(below.tolist()):
        share = float(np.clip((k - source[i]) / (source[i + 1] - source[i]), 0, 1))
        if share in (0.0, 1.0):
            result[k] = hu[i + int(share)]
        else:
            result[k] = np.rint((1 - share) * hu[i] + share * hu[i + 1])
    return result


def _pixels(slices: list[Slice]) -> tuple[np.ndarray, list[QualityCheck]]:
    """int16 HU ``[n, rows, columns]``."""
    check_voxels((len(slices), *slices[0].shape), "The DICOM series", ScanError)
    hu = np.empty((len(slices), *slices[0].shape), np.int16)
    beyond = padded = 0
    frames_of: dict[Path, list[int]] = defaultdict(list)
    for k, one in enumerate(slices):
        frames_of[one.path].append(k)
    for path, numbers in frames_of.items():
        pixels = _decode(path, f"{numbers[0] + 1} of {len(slices)}")
        for k in numbers:
            one = slices[k]
            plane = pixels if pixels.ndim == 2 else pixels[one.frame]
            if plane.shape != one.shape:
                raise ScanError("The pixels of a slice do not have the size its header says.", code="dicom_pixels")
            slope, intercept = 1.0 if one.slope is None else one.slope, one.intercept or 0.0
            hu[k], over = scale_to_int16(plane, slope, intercept)
            beyond += over
            if one.padding is not None and not AIR_HU <= one.padding * slope + intercept <= 3071:
                blank = plane == one.padding
                hu[k][blank] = AIR_HU
                padded += int(blank.sum())
    checks: list[QualityCheck] = []
    if unscaled := sum(one.intercept is None for one in slices):
        message = f"{unscaled} slices have no rescale intercept; their numbers are taken as HU."
        checks.append(QualityCheck("no_rescale", "warning", message, unscaled))
    if beyond:
        checks.append(beyond_int16(beyond, hu.size))
    if padded:
        message = f"{padded / hu.size:.1%} of the voxels are padding and were set to {AIR_HU} HU."
        checks.append(QualityCheck("padding", "info", message, padded / hu.size))
    return hu, checks


def _decode(path: Path, which: str) -> np.ndarray:
    """Pixels of one file, ``[rows, columns]`` or ``[frames, rows, columns]``; ``which`` names it in errors."""
    syntax = syntax_name(None)
    try:
        with quiet_pydicom():
            dataset = read_dicom(path)
            syntax = syntax_name(dataset.file_meta.get("TransferSyntaxUID"))
            pixels = pixels_of(dataset)
    except ScanError:
        raise
    except Exception as problem:  # noqa: BLE001  decoders raise anything; their words may quote the header
        raise ScanError(
            f"The pixels of slice {which} cannot be decoded ({type(problem).__name__}, stored as {syntax}).",
            code="dicom_pixels",
            fix="The file is damaged, or a decoder is missing: pip install python-gdcm 'pylibjpeg[all]'.",
        ) from None
    if pixels.ndim > 3 or (pixels.ndim == 3 and dataset.get("SamplesPerPixel", 1) > 1):
        raise ScanError("The slices hold colours, expected one number a pixel.", code="not_scalar")
    return pixels
