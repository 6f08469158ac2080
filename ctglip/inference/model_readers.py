"""The reader that a model needs."""

from __future__ import annotations

from ctglip.data.crops import CropSettings
from ctglip.errors import ModelError
from ctglip.inference.ct_readers import CropOrganReader, ScanOrganReader
from ctglip.inference.cxr_encoding import Read
from ctglip.inference.cxr_reader import RadiographOrganReader
from ctglip.inference.readers import OrganReader
from ctglip.models.release import Release


def reader_of(release: Release, read: Read = "organs", crops: CropSettings | None = None) -> OrganReader:
    """The reader that a model needs.

    Args:
        read: how radiographs are read.
        crops: how organs of scans are cut and shown, in place of the model's own settings.

    Raises:
        ModelError: code ``no_whole_image``, ``no_observations``, ``other_modality``: it cannot be read so.
    """
    kind = reader_class(release)
    if issubclass(kind, RadiographOrganReader):
        return kind(release, read)
    if read != "organs":
        raise ModelError(
            "This model was trained on scans, which are read in one way.", code="other_modality", fix="Leave out read."
        )
    return kind(release, crops)


def reader_class(release: Release) -> type[CropOrganReader | ScanOrganReader | RadiographOrganReader]:
    """What reads organs for a model."""
    if release.modality == "cxr":
        return RadiographOrganReader
    return CropOrganReader if release.reads_crops else ScanOrganReader
