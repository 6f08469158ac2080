"""A tuned model segments a scan from disk: masks on the voxels that the scan came on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from safetensors.torch import load_file

from ctglip.config import validate
from ctglip.ct.dicom import series_files
from ctglip.ct.dicom_seg import SegmentEntry, write_dicom_seg
from ctglip.ct.io import SourceScan, read_source
from ctglip.ct.nifti import write_nifti
from ctglip.ct.quality import refuse_errors
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.errors import CTGLIPError, ModelError, ScanError
from ctglip.files import is_dicom, private_name, read_json, write_json
from ctglip.inference.encoding import evaluating
from ctglip.inference.query_settings import changed_recipe, query_settings, with_setting
from ctglip.modality import MODALITIES, looks_like
from ctglip.models.device import resolve_device
from ctglip.models.release import load_release
from ctglip.tasks.ct_patches import patch_volume
from ctglip.tasks.ct_segmentation import (
    CtSegmentation,
    PatchGrid,
    ScanView,
    class_probabilities,
    classes_on,
    decoder_on,
)
from ctglip.tasks.settings import CtSegmentationTaskSettings
from ctglip.types import QualityCheck, spacing_of
from ctglip.vocabulary.organs import OrganDictionary, load_organs


@dataclass(frozen=True)
class SegmentedScan:
    """What was drawn on a scan.

    Attributes:
        name: of the scan, without what DICOM names say.
        labels: uint8 on the source's voxels, in its own order of axes; 0 is the rest.
        affine: ``[4, 4]``, index of the source to RAS+ millimetres.
        targets: names of the classes, from 1.
        checks: what was noticed about the scan.
        slices: files of a DICOM series' slices, in the order of the third axis; none of other scans.
    """

    name: str
    labels: UInt8[np.ndarray, "i j k"]
    affine: Float[np.ndarray, "4 4"]
    targets: tuple[str, ...]
    checks: tuple[QualityCheck, ...]
    slices: tuple[Path, ...] = ()

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Millilitres of each class."""
        voxel = math.prod(spacing_of(self.affine)) / 1000
        counts = np.bincount(self.labels.ravel(), minlength=len(self.targets) + 1)
        return {name: float(counts[number] * voxel) for number, name in enumerate(self.targets, start=1)}

    def to_json(self) -> dict[str, Any]:
        """Plain data: what the numbers mean, and how much there is of each."""
        return {
            "scan": self.name,
            "labels": dict(enumerate(self.targets, start=1)),
            "volumes_ml": self.volumes_ml,
            "shape": list(self.labels.shape),
            "spacing_mm": list(spacing_of(self.affine)),
            "checks": [{"code": one.code, "severity": one.severity, "message": one.message} for one in self.checks],
        }


class ScanSegmenter:
    """A tuned model that segments its targets on scans.

    Args:
        folder: what ``finetune`` with ``task: ct_segmentation`` wrote.
        device: ``auto`` takes a GPU where there is one.

    Raises:
        ModelError: code ``no_segmentation``: it segments nothing; or it is no model.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        about = folder / "head" / f"{CtSegmentation.head_file}.json"
        release = load_release(folder)
        if not about.is_file():
            raise ModelError(
                f"{folder} holds a model that segments no scans: it has no head/{about.name}.",
                code="no_segmentation",
                fix="Train one: ctglip finetune RUN STORE OUT --config finetune/ct_segmentation, and name OUT.",
            )
        self.release, self.recipe = release, validate(CtRecipe, release.recipe, "the model's recipe")
        self.settings = validate(CtSegmentationTaskSettings, read_json(about), str(about))
        self.view, self.grid = ScanView.of(release), PatchGrid.of(self.settings, [release])
        network = decoder_on(release, release.model, len(self.settings.targets), self.settings, frozen=True)
        try:
            network.head.load_state_dict(load_file(about.with_suffix(".safetensors")))
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelError(f"{about.parent} is damaged.", code="weights", fix="Copy the folder again.") from error
        self.network = network.to(resolve_device(device)).eval()

    @cached_property
    def organs(self) -> OrganDictionary:
        """The model's dictionary."""
        return load_organs(self.release.organ_dictionary / "organs.yaml")

    def segment(self, path: Path | str, settings: Sequence[str] = ()) -> SegmentedScan:
        """Segment a scan; it is refused as preprocessing would refuse it.

        Args:
            path: NIfTI or NRRD file, or folder of DICOM slices.
            settings: changes of how it is read, ``"ct.series=3"``.

        Raises:
            ConfigError: a setting that there is not, or that the model was trained with.
            ScanError: it cannot be read, or is no CT.
        """
        path, modality = Path(path), MODALITIES["ct"]
        if (other := looks_like(path)) not in (None, modality):
            raise ScanError(f"This model segments scans, and {private_name(path)} is a {other.image}.",  # pyright: ignore[reportOptionalMemberAccess]
                            code="other_modality", fix=f"Give {modality.files}.")  # fmt: skip
        recipe = changed_recipe(self.recipe, query_settings(settings, modality).ct, "ct")
        try:
            source = read_source(path, recipe)
            refuse_errors(source.checks)
            return self._segmented(path, source, recipe)
        except ScanError as error:
            raise with_setting(error, recipe, "ct") from error

    def _segmented(self, path: Path, source: SourceScan, recipe: CtRecipe) -> SegmentedScan:
        made = standardize(source.scan, None, recipe, self.organs)
        refuse_errors(made.checks)
        volume = patch_volume(made.image, None, made.affine, self.grid.spacing_mm)
        with evaluating(self.network):
            probabilities = class_probabilities(self.network, volume, self.view.scans, self.grid.patch, self.settings)
        labels = classes_on(probabilities, volume.affine, source.shape, source.affine)
        dicom = source.even and (path.is_dir() or is_dicom(path))
        return SegmentedScan(
            name=private_name(path),
            labels=labels,
            affine=source.affine,
            targets=self.settings.targets,
            checks=(*source.checks, *made.checks),
            slices=tuple(series_files(path, recipe)) if dicom else (),
        )

    def segments(self) -> list[SegmentEntry]:
        """What is drawn, with the codes that the dictionary has for organs."""
        found = []
        for name in self.settings.targets:
            code = self.organs[name].code if name in self.organs else None
            found.append(SegmentEntry(name, code and (code.value, code.scheme, code.meaning)))
        return found

    def write(self, scan: SegmentedScan, out: Path) -> tuple[list[Path], str]:
        """Write ``segmentation.nii.gz`` and ``segmentation.json``, of a DICOM series also ``segmentation.dcm``; an
        earlier one is deleted.

        Returns:
            The files, and why there is no DICOM segmentation of a DICOM series; empty where there is.
        """
        out.mkdir(parents=True, exist_ok=True)
        dicom = out / "segmentation.dcm"
        dicom.unlink(missing_ok=True)
        files = [write_nifti(out / "segmentation.nii.gz", scan.labels, scan.affine)]
        write_json(out / "segmentation.json", scan.to_json())
        files.append(out / "segmentation.json")
        if not scan.slices:
            return files, ""
        try:
            return [*files, write_dicom_seg(dicom, scan.labels, scan.slices, self.segments())], ""
        except CTGLIPError as error:
            return files, f"No DICOM segmentation was written: {error}"
