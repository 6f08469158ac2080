"""The reader that a model needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ctglip.data.crops import CropSettings
from ctglip.data.organ_crops import CropFiles
from ctglip.errors import ModelError
from ctglip.inference.ct_readers import CropOrganReader, ScanOrganReader
from ctglip.inference.cxr_reader import RadiographOrganReader
from ctglip.inference.readers import OrganReader, Read
from ctglip.models.release import ReaderKind, Release

READERS: Mapping[ReaderKind, Callable[[Release, Read, CropSettings | None, CropFiles | None], OrganReader[Any]]] = {
    "crops": lambda release, _, crops, files: CropOrganReader(release, crops, files),
    "scans": lambda release, _, crops, __: ScanOrganReader(release, crops),
    "cxr": lambda release, read, _, __: RadiographOrganReader(release, read),
}
"""By what models read."""


def reader_of(
    release: Release,
    read: Read = "organs",
    crops: CropSettings | None = None,
    files: CropFiles | None = None,
    features_only: bool = False,
) -> OrganReader[Any]:
    """The reader that a model needs.

    Args:
        read: how radiographs are read.
        crops: how crops are cut and shown, in place of the model's own settings.
        files: where crops of stored studies are kept.
        features_only: raw features are wanted, for which the model needs no head.

    Raises:
        ModelError: code ``no_whole_image``, ``no_observations``, ``other_modality``: it cannot be read so.
    """
    reader = READERS[release.reader_kind](release, read, crops, files)
    if read not in reader.reads:
        raise ModelError(
            f"This model was trained on {reader.modality.images}, which are read in one way.",
            code="other_modality",
            fix="Leave out read.",
        )
    if not features_only:
        reader.check_heads()
    return reader
