"""An asymmetric phantom, and writers of NIfTI files and DICOM series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from ctglip.vocabulary.organs import OrganDictionary, load_organs

SECRETS = ("SECRET^NAME", "SECRETID", "19870605", "1.2.999.123456789")


@dataclass(frozen=True)
class Phantom:
    """hu int16, labels uint8 ``[x, y, z]`` in RAS+, affine."""

    hu: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: tuple[float, ...]) -> np.ndarray:
    grid = np.indices(shape).astype(float)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 1


def make_phantom(spacing: tuple[float, float, float] = (5.0, 5.0, 5.0)) -> Phantom:
    """A torso of 28 x 30 x 32 voxels: liver right, spleen left, heart left and up, bladder low and in front."""
    shape = (28, 30, 32)
    hu = np.full(shape, -1000, np.int16)
    labels = np.zeros(shape, np.uint8)
    hu[ball(shape, (13.5, 14.5, 15.5), (11, 12, 40))] = 20
    for label, value, centre, radius in (
        (5, 60, (18, 16, 18), (4, 4, 4)),  # liver
        (1, 50, (8, 12, 19), (2.5, 2.5, 2.5)),  # spleen
        (51, 120, (10, 18, 26), (3, 3, 3)),  # heart
        (21, 5, (13, 20, 5), (3, 3, 3)),  # urinary bladder
        (29, 400, (13, 7, 14), (2, 2, 2)),  # vertebra L3
        (2, 160, (17, 10, 12), (2, 2, 2)),  # right kidney
    ):
        inside = ball(shape, centre, radius)
        hu[inside] = value
        labels[inside] = label
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-70, -60, 30)
    return Phantom(hu, labels, affine)


@pytest.fixture
def phantom() -> Phantom:
    return make_phantom()


@pytest.fixture(scope="session")
def organs() -> OrganDictionary:
    return load_organs()


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    """``write(array, affine, name="scan.nii.gz", slope=None, inter=None)`` -> path."""

    def write(
        array: np.ndarray, affine: np.ndarray, name: str = "scan.nii.gz", slope: float | None = None, inter: float = 0.0
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(array, affine)
        image.header.set_data_dtype(array.dtype)
        if slope is not None:
            image = nib.Nifti1Image(array * slope + inter, affine)
            image.header.set_data_dtype(array.dtype)
            image.header.set_slope_inter(slope, inter)
        nib.save(image, path)
        return path

    return write


def dicom_slice(pixels: np.ndarray, **values: Any) -> FileDataset:
    """One CT slice with secrets in every identifying tag; ``values`` override (None deletes)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid("1.2.999.123456789.")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID, data.StudyDate = SECRETS[0], SECRETS[1], SECRETS[2]
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = "1.2.999.123456789.1"
    data.SeriesInstanceUID = "1.2.999.123456789.2"
    data.Modality, data.SeriesNumber, data.SeriesDescription = "CT", 3, "SECRET^NAME thorax soft"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype == np.int16)
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelSpacing = [2.0, 2.0]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [0, 0, 0]
    data.InstanceNumber = 1
    data.PixelData = pixels.tobytes()
    for name, value in values.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


@pytest.fixture
def write_series(tmp_path: Path) -> Callable[..., Path]:
    """``write(hu, heights, folder="dicom", change=None, **values)``: hu ``[x, y, z]`` in LPS order, one slice a height.

    ``change(index, dataset)`` may alter a slice, or return False to leave it out.
    """

    def write(
        hu: np.ndarray,
        heights: Any,
        folder: str = "dicom",
        change: Callable[[int, FileDataset], bool | None] | None = None,
        **values: Any,
    ) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        for k, height in enumerate(heights):
            pixels = np.ascontiguousarray((hu[:, :, k].T + 1024).astype(np.uint16))
            data = dicom_slice(pixels, ImagePositionPatient=[-20, -10, float(height)], InstanceNumber=k + 1, **values)
            if change is None or change(k, data) is not False:
                data.save_as(path / f"{data.SOPInstanceUID}.dcm", enforce_file_format=True)
        return path

    return write


def _plain_unet_plans() -> dict[str, Any]:
    resampling = {
        "fn": "resample_data_or_seg_to_shape",
        "data": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "seg": {"is_seg": True, "order": 0, "order_z": 0, "force_separate_z": None},
    }
    unet = {
        "n_stages": 2, "features_per_stage": [2, 2], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1], "conv_bias": True, "norm_op": None, "norm_op_kwargs": None,
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    configuration = {
        "data_identifier": "standin", "preprocessor_name": "DefaultPreprocessor", "batch_size": 1,
        "patch_size": [32, 32, 32], "median_image_size_in_voxels": [32, 32, 32], "spacing": [3.0, 3.0, 3.0],
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False], "batch_dice": False,
        "resampling_fn_data": resampling["fn"], "resampling_fn_data_kwargs": resampling["data"],
        "resampling_fn_seg": resampling["fn"], "resampling_fn_seg_kwargs": resampling["seg"],
        "resampling_fn_probabilities": resampling["fn"], "resampling_fn_probabilities_kwargs": resampling["data"],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": unet, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }  # fmt: skip
    intensities = {
        "mean": 0.0, "std": 100.0, "percentile_00_5": -1024.0, "percentile_99_5": 1000.0, "min": -1024.0,
        "max": 1000.0, "median": 0.0,
    }  # fmt: skip
    return {
        "dataset_name": "standin", "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 3.0, 3.0], "image_reader_writer": "SimpleITKIO",
        "original_median_shape_after_transp": [32, 32, 32], "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2], "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager", "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {"3d_fullres": configuration},
    }  # fmt: skip


def write_stand_in_weights(folder: Path, dataset: str, thresholds: dict[int, float]) -> None:
    """Weights of a tiny nnU-Net that marks label k where HU exceed ``thresholds[k]`` (the highest that is exceeded)."""
    import json

    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from totalsegmentator.map_to_binary import class_map

    names = {"background": 0, **{name: number for number, name in class_map["total"].items()}}
    plans = _plain_unet_plans()
    kwargs = dict(plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"])
    kwargs |= {"conv_op": torch.nn.Conv3d, "nonlin": torch.nn.LeakyReLU}
    network = PlainConvUNet(1, num_classes=len(names), deep_supervision=False, **kwargs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.encoder.stages[0][0].convs[0].conv.weight[0, 0, 1, 1, 1] = 1  # the image itself
        skip = network.decoder.stages[0].convs[0].conv.weight
        skip[0, skip.shape[1] // 2, 1, 1, 1] = 1
        head = network.decoder.seg_layers[-1]
        head.bias[:] = -1000
        head.bias[0] = 0
        for rank, (label, threshold) in enumerate(sorted(thresholds.items(), key=lambda item: item[1]), start=1):
            below = [t / 100 for t in sorted(thresholds.values())[: rank - 1]]
            head.weight[label, 0] = rank
            head.bias[label] = -(threshold / 100) - sum(below)
    point = folder / dataset / "nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres"
    (point / "fold_0").mkdir(parents=True, exist_ok=True)
    (point / "plans.json").write_text(json.dumps(plans))
    described = {"channel_names": {"0": "CT"}, "labels": names, "numTraining": 1, "file_ending": ".nii.gz"}
    (point / "dataset.json").write_text(json.dumps(described))
    checkpoint = {
        "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"}, "inference_allowed_mirroring_axes": None,
    }  # fmt: skip
    torch.save(checkpoint, point / "fold_0" / "checkpoint_final.pth")


def dicom_segmentation(
    masks: dict[str, np.ndarray], affine: np.ndarray, kind: str = "BINARY", **segment_values: Any
) -> FileDataset:
    """A DICOM segmentation of boolean ``[x, y, z]`` arrays on a RAS+ grid; slices without voxels are left out."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.utils import pack_bits

    names = list(masks)
    data = dicom_slice(np.zeros((2, 2), np.uint16), Modality="SEG", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    del data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
    data.SegmentationType = kind
    data.SegmentSequence = []
    for number, name in enumerate(names, start=1):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, name
        for key, value in segment_values.items():
            setattr(segment, key, value)
        data.SegmentSequence.append(segment)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]  # columns along RAS x, rows along RAS y
    measures.PixelSpacing, measures.SliceThickness = [float(affine[1, 1]), float(affine[0, 0])], float(affine[2, 2])
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    frames: list[np.ndarray] = []
    data.PerFrameFunctionalGroupsSequence = []
    stack = np.stack([masks[name] for name in names])
    planes = (
        [(None, k) for k in range(stack.shape[3]) if stack[..., k].any()]
        if kind == "LABELMAP"
        else [(n, k) for n in range(len(names)) for k in range(stack.shape[3]) if stack[n, ..., k].any()]
    )
    for n, k in planes:
        frame, position = Dataset(), Dataset()
        x, y, z = affine[:3, 3] + affine[:3, 2] * k
        position.ImagePositionPatient = [-x, -y, z]
        frame.PlanePositionSequence = [position]
        if n is None:
            frames.append(sum((stack[m, ..., k] * (m + 1) for m in range(len(names))), np.zeros(stack.shape[1:3])).T)
        else:
            owner = Dataset()
            owner.ReferencedSegmentNumber = n + 1
            frame.SegmentIdentificationSequence = [owner]
            frames.append(stack[n, ..., k].T * (200 if kind == "FRACTIONAL" else 1))
        data.PerFrameFunctionalGroupsSequence.append(frame)
    pixels = np.stack(frames).astype(np.uint8)
    data.NumberOfFrames, data.Rows, data.Columns = pixels.shape
    bits = 1 if kind == "BINARY" else 8
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits, bits - 1, 0
    if kind == "FRACTIONAL":
        data.MaximumFractionalValue = 255
    data.PixelData = pack_bits(pixels) if bits == 1 else pixels.tobytes()
    return data


@pytest.fixture
def make_segmentation() -> Callable[..., FileDataset]:
    """``dicom_segmentation``."""
    return dicom_segmentation


@pytest.fixture(scope="session")
def stand_in_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of TotalSegmentator's 3 mm and 6 mm models: liver above 30, heart above 100, L3 above 300 HU."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("Dataset297_TotalSegmentator_total_3mm_1559subj", "Dataset298_TotalSegmentator_total_6mm_1559subj"):
        write_stand_in_weights(folder, name, {5: 30, 51: 100, 29: 300})
    return folder
