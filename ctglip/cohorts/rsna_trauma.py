"""RSNA abdominal trauma detection: up to two series a patient, labels of patients; masks of a few."""

from __future__ import annotations

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.label_names import labels_of

_PATIENT, _SERIES = "patient_id", "series_id"
_MASKS = "segmentations"


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
        masks = {match[1]: path for path, match in disk.named(r"(\d+)(?:\.nii(?:\.gz)?)?") if _MASKS in path.split("/")}
        series = disk.table("train_series_meta.csv", columns=(_PATIENT, _SERIES, "incomplete_organ"))
        labels = labels_of(disk.table("train.csv", columns=(_PATIENT,)), _PATIENT, self.data, tables)
        for row in series.iter_rows(named=True):
            patient, name = str(row[_PATIENT]), str(row[_SERIES])
            if not settings.incomplete and row["incomplete_organ"] in ("1", "1.0"):
                tables.exclude(f"{patient}_{name}", "incomplete_organ", "The table says that an organ is cut off.")
                continue
            study_id = f"{patient}_{name}"
            path = folders.get((patient, name), f"train_images/{patient}/{name}")
            mask = masks.get(name)
            tables.rows.append({
                "study_id": study_id, "patient_id": patient, "image": path, "modality": "ct", "masks": mask,
                "numbering": None if mask is None else self.name,
            })  # fmt: skip
            tables.labels[study_id] = dict(labels.get(patient, {}))
        if disk.find("image_level_labels.csv"):
            tables.facts.append("image_level_labels.csv (slices with an injury) was not taken.")
        tables.facts.append(
            "Low and high grades of an injury are one label (liver:laceration and its like): which of the two is lost."
        )
        tables.facts.append(
            f"{sum(bool(row['masks']) for row in tables.rows)} series have masks ({_MASKS}/, made by a program); their "
            "kidneys are not told apart."
        )
        return tables
