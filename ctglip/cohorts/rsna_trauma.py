"""RSNA abdominal trauma detection: up to two series a patient, labels of patients."""

from __future__ import annotations

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.label_names import labels_of

_PATIENT, _SERIES = "patient_id", "series_id"


class RsnaTraumaSettings(CohortSettings):
    """What can be chosen of the RSNA abdominal trauma set.

    Attributes:
        incomplete: series in which an organ is cut off (``incomplete_organ``) are kept, or excluded.
    """

    incomplete: bool = True


class RsnaTrauma(CohortReader):
    """Reads the RSNA abdominal trauma set."""

    name = "rsna_trauma"
    Settings = RsnaTraumaSettings

    def read(self, disk: Disk, settings: RsnaTraumaSettings) -> CohortTables:
        """The set in our form: a row a series; both series of a patient have the patient's labels."""
        tables = CohortTables()
        folders = {tuple(path.split("/")[-2:]): path for path in disk.series if path.count("/") >= 1}
        if not folders:
            raise disk.nothing("train_images/PATIENT/SERIES/1.dcm")
        series = disk.table("train_series_meta.csv", columns=(_PATIENT, _SERIES, "incomplete_organ"))
        labels = labels_of(disk.table("train.csv", columns=(_PATIENT,)), _PATIENT, self.data, tables)
        for row in series.iter_rows(named=True):
            patient, name = str(row[_PATIENT]), str(row[_SERIES])
            if not settings.incomplete and row["incomplete_organ"] in ("1", "1.0"):
                tables.exclude(f"{patient}_{name}", "incomplete_organ", "The table says that an organ is cut off.")
                continue
            study_id = f"{patient}_{name}"
            path = folders.get((patient, name), f"train_images/{patient}/{name}")
            tables.rows.append({"study_id": study_id, "patient_id": patient, "image": path, "modality": "ct"})
            tables.labels[study_id] = dict(labels.get(patient, {}))
        if disk.find("image_level_labels.csv"):
            tables.facts.append("image_level_labels.csv (slices with an injury) was not taken.")
        masks = [path for path, _ in disk.named(r"\d+\.nii(?:\.gz)?")]
        if masks:
            tables.facts.append(f"{len(masks)} files of segmentations/ have numbers of their own and were not taken.")
        return tables
