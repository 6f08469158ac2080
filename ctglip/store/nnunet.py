"""A store as nnU-Net reads it: ``nnUNet_raw/DatasetNNN_NAME`` with our classes and our splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctglip.ct.nifti import write_nifti
from ctglip.errors import CohortError, StoreError
from ctglip.files import write_json
from ctglip.store.mask_classes import MaskClass, Undrawn, class_map
from ctglip.store.tables import Store
from ctglip.types import Progress

_FOLDERS = {"train": "Tr", "val": "Tr", "test": "Ts"}
SPLITS = "splits_final.json"
WindowsHU = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class NNUNetRaw:
    """What was written.

    Attributes:
        folder: ``DatasetNNN_NAME``.
        train, val, test: studies of each split.
        left_out: studies without a split, or on which nobody drew the classes.
    """

    folder: str
    train: int
    val: int
    test: int
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def export_nnunet(
    store: Store,
    out: Path,
    classes: Sequence[MaskClass],
    number: int = 501,
    name: str = "ctglip",
    windows_hu: WindowsHU = (),
    undrawn: Undrawn = "empty",
    progress: Progress | None = None,
) -> NNUNetRaw:
    """Write images and labels of a store on its own voxels, ``dataset.json``, and ``splits_final.json``.

    Training and validation become ``imagesTr``, the test split ``imagesTs`` (``labelsTs`` for judging). nnU-Net draws
    five folds of its own unless ``splits_final.json`` lies in ``nnUNet_preprocessed/DatasetNNN_NAME``: there fold 0 is
    ours.

    Args:
        out: ``nnUNet_raw``.
        classes: as ``mask_classes`` gives them.
        number, name: of the data set.
        windows_hu: one channel for each, scaled to -1 .. 1 as a model of whole scans sees it, which nnU-Net then leaves
            as it is; none: one channel of HU.
        undrawn: see ``class_map``.
        progress: called with (studies done, studies).

    Raises:
        StoreError: a store of radiographs.
        CohortError: code ``empty_split``: nothing to train on.
    """
    if store.info.modality != "ct":
        raise StoreError(
            f"{store.path} is a store of radiographs.", code="other_modality", fix="Name a store of scans."
        )
    splits = dict(store.table("splits").select("study_id", "split").iter_rows())
    folder, cases, left_out = out / f"Dataset{number:03d}_{name}", dict[str, list[str]](train=[], val=[], test=[]), []
    study_ids = list(store.study_ids)
    for done, study_id in enumerate(study_ids):
        if progress:
            progress(done, len(study_ids))
        study, split = store.study(study_id), splits.get(study_id)
        labels = class_map(study, classes, undrawn) if split in cases else None
        if labels is None or split is None:
            left_out.append(study_id)
            continue
        for channel, image in enumerate(_channels(study.image(), windows_hu)):
            write_nifti(folder / f"images{_FOLDERS[split]}" / f"{study_id}_{channel:04d}.nii.gz", image, study.affine)
        write_nifti(folder / f"labels{_FOLDERS[split]}" / f"{study_id}.nii.gz", labels, study.affine)
        cases[split].append(study_id)
    if progress:
        progress(len(study_ids), len(study_ids))
    if not cases["train"]:
        raise CohortError("No study of the split 'train' has the masks.", code="empty_split", fix="Name other targets.")
    write_json(folder / "dataset.json", _dataset(classes, windows_hu, len(cases["train"]) + len(cases["val"])))
    write_json(folder / SPLITS, [{"train": cases["train"], "val": cases["val"]}])
    counts = {split: len(names) for split, names in cases.items()}
    return NNUNetRaw(str(folder), left_out=tuple(left_out), **counts)


def _channels(hu: np.ndarray, windows_hu: WindowsHU) -> list[np.ndarray]:
    if not windows_hu:
        return [hu]
    return [
        np.clip((hu.astype(np.float32) - low) * (2.0 / (high - low)) - 1.0, -1, 1).astype(np.float32)
        for low, high in windows_hu
    ]


def _dataset(classes: Sequence[MaskClass], windows_hu: WindowsHU, training: int) -> dict[str, Any]:
    """nnU-Net normalises a channel by its name; ``noNorm`` leaves it."""
    channels = {str(number): "noNorm" for number in range(len(windows_hu))} or {"0": "CT"}
    labels = {"background": 0, **{one.name.replace(":", "_"): number for number, one in enumerate(classes, start=1)}}
    return {"channel_names": channels, "labels": labels, "numTraining": training, "file_ending": ".nii.gz"}
