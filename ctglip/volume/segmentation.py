"""TotalSegmentator, run in this process: organ masks for scans that come without.

Nothing leaves the machine: usage statistics are off, and weights are fetched only when the settings allow it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from unittest import mock

import numpy as np

from ctglip.config import Settings
from ctglip.errors import MaskError
from ctglip.types import LabelMap, Scan
from ctglip.vocabulary.organs import TOTALSEGMENTATOR_V2, OrganDictionary
from ctglip.volume.geometry import canonical, same_grid

if TYPE_CHECKING:
    import nibabel as nib

_MODELS = {"full": (291, 292, 293, 294, 295), "fast": (297,), "fastest": (298,)}
_CROP_MODEL = 298


class SegmentationSettings(Settings):
    """How TotalSegmentator is run.

    Attributes:
        mode: ``fast`` (3 mm model), ``fastest`` (6 mm model) or ``full`` (1.5 mm models).
        roi_subset: only these classes (TotalSegmentator v2 names); empty for all.
        device: ``cpu``, ``gpu``, ``gpu:1``, ... or ``auto``.
        allow_download: fetch missing weights from the network.
    """

    mode: Literal["full", "fast", "fastest"] = "fast"
    roi_subset: tuple[str, ...] = ()
    device: str = "auto"
    allow_download: bool = False


def weights_folder() -> Path:
    """Where TotalSegmentator looks for its weights."""
    if folder := os.environ.get("TOTALSEG_WEIGHTS_PATH"):
        return Path(folder)
    home = os.environ.get("TOTALSEG_HOME_DIR")
    return (Path(home) if home else Path.home() / ".totalsegmentator") / "nnunet" / "results"


def missing_weights(settings: SegmentationSettings) -> tuple[str, ...]:
    """Names of the weight folders that the settings need and that are not there."""
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

    needed = (*_MODELS[settings.mode], *((_CROP_MODEL,) if settings.roi_subset else ()))
    names = [str(TASK_ID_WEIGHTS_CONFIGS[model]["foldername"]) for model in dict.fromkeys(needed)]
    return tuple(name for name in names if not (weights_folder() / name).is_dir())


def segment(scan: Scan, settings: SegmentationSettings, organs: OrganDictionary) -> LabelMap:
    """Organ masks of a scan by TotalSegmentator's task ``total``.

    Args:
        scan: as ``read_scan`` gives it.
        settings: mode, classes, device.
        organs: names to label numbers.

    Returns:
        Dictionary labels on the scan's grid.

    Raises:
        MaskError: ``weights_missing``, ``unknown_class``, ``segmentation_licence``, ``segmentation_failed``,
            ``segmentation_empty``.
    """
    unknown = sorted(set(settings.roi_subset) - set(TOTALSEGMENTATOR_V2.values()))
    if unknown:
        raise MaskError(f"TotalSegmentator has no class {', '.join(unknown)}.", code="unknown_class")
    if not settings.allow_download and (missing := missing_weights(settings)):
        raise MaskError(
            f"The TotalSegmentator weights {', '.join(missing)} are not in {weights_folder()}.",
            code="weights_missing",
            fix="Unpack them there (or set TOTALSEG_WEIGHTS_PATH), or set segmentation.allow_download: true.",
        )
    image = _run(scan, settings)
    numbers, affine = canonical(np.asarray(image.dataobj).astype(np.uint8), np.asarray(image.affine))
    if not same_grid(numbers.shape, affine, scan.hu.shape, scan.affine):
        raise MaskError("TotalSegmentator answered on another grid.", code="segmentation_failed")
    if not numbers.any():
        raise MaskError(
            "TotalSegmentator found no organ.", code="segmentation_empty", fix="Look at the scan: is it a CT of a body?"
        )
    return LabelMap(_numbering(organs)[numbers], scan.affine)


def _numbering(organs: OrganDictionary) -> np.ndarray:
    """Look-up table from TotalSegmentator v2's numbers to the dictionary's labels."""
    table = np.zeros(256, np.uint8)
    for number, name in TOTALSEGMENTATOR_V2.items():
        organ = organs.from_source(name)
        table[number] = (organ.label or 0) if organ else 0
    return table


def _run(scan: Scan, settings: SegmentationSettings) -> nib.Nifti1Image:
    import nibabel as nib
    from totalsegmentator import python_api

    with _private(), contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        try:
            result = python_api.totalsegmentator(
                nib.Nifti1Image(np.ascontiguousarray(scan.hu), scan.affine),
                None,
                ml=True,
                fast=settings.mode == "fast",
                fastest=settings.mode == "fastest",
                roi_subset=list(settings.roi_subset) or None,
                device=_device(settings.device),
                quiet=True,
                nr_thr_saving=1,
            )
        except SystemExit as stop:
            raise MaskError(
                f"TotalSegmentator stopped: {_last_line(said.getvalue()) or stop.code}.",
                code="segmentation_licence",
                fix="Set its licence number with totalseg_set_license, or choose another mode.",
            ) from stop
        except Exception as problem:
            raise MaskError(
                f"TotalSegmentator failed: {type(problem).__name__}: {_last_line(str(problem))}.",
                code="segmentation_failed",
            ) from problem
    assert isinstance(result, nib.Nifti1Image)
    return result


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """No usage statistics, no counting of runs."""
    from totalsegmentator import python_api

    with (
        mock.patch.object(python_api, "send_usage_stats"),
        mock.patch.object(python_api, "increase_prediction_counter", return_value=None),
    ):
        yield
