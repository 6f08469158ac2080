"""LIDC-IDRI (DICOM and the XML of four readers) and LUNA16 (a selection of it as MetaImage, nodules agreed upon)."""

from __future__ import annotations

import functools
import re
from pathlib import Path, PurePosixPath

from pydantic import Field

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables, Localization
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.lidc_outlines import has_nodule, outlines_in, parse_xml, sessions_of
from ctglip.errors import CohortError

_LEAST_SLICES = 20


class LidcSettings(CohortSettings):
    """What can be chosen of LIDC-IDRI.

    Attributes:
        readers: how many of the four must have marked a nodule of 3 mm or more for the scan to have one, and for its
            outline to be taken.
        agreement: the share of a nodule's readers who must have enclosed a voxel.
    """

    readers: int = Field(default=1, ge=1, le=4)
    agreement: float = Field(default=0.5, gt=0, le=1)


class Lidc(CohortReader):
    """Reads LIDC-IDRI."""

    name = "lidc_idri"
    Settings = LidcSettings

    def read(self, disk: Disk, settings: LidcSettings) -> CohortTables:
        """LIDC-IDRI in our form: a row a CT series; radiographs of the same patients are left out."""
        tables = CohortTables()
        found = [(path, m[0]) for path in sorted(disk.series) if (m := re.search(r"LIDC-IDRI-\d{4}", path))]
        if not found:
            raise disk.nothing("LIDC-IDRI-0001/STUDY/SERIES/000001.dcm")
        xml: dict[str, list[str]] = {}
        for path, _ in disk.named(r".*\.xml"):
            xml.setdefault(str(PurePosixPath(path).parent), []).append(path)
        counts: dict[str, int] = {}
        for path, patient in found:
            count = disk.series[path]
            if count < _LEAST_SLICES:
                tables.exclude(path, "too_few_images", f"{count} images: a radiograph, or a half download.")
                continue
            counts[patient] = counts.get(patient, 0) + 1
            number = counts[patient]
            study_id = patient if number == 1 else f"{patient}-{number}"
            tables.rows.append({"study_id": study_id, "patient_id": patient, "image": path, "modality": "ct"})
            readers = _take_outlines(disk.root, path, xml.get(path, []), study_id, settings, tables)
            label = None if readers is None else int(readers >= settings.readers)
            tables.labels[study_id] = {"lung_nodule": label}
        two = [patient for patient, count in counts.items() if count > 1]
        tables.facts.append(f"{len(two)} patients have several scans (numbered -2, ...), never in two splits.")
        tables.facts.append(
            f"A scan has a nodule where {settings.readers} of four readers marked one of 3 mm or more. Marks whose "
            f"boxes meet are one nodule; its voxels are those that {settings.agreement:.0%} of its readers enclosed, "
            "without what they left out (inclusion FALSE)."
        )
        return tables


def _take_outlines(
    root: Path, series: str, paths: list[str], study_id: str, settings: LidcSettings, tables: CohortTables
) -> int | None:
    """Note a scan's outlined nodules; how many readers marked one of 3 mm or more, None without a readable file."""
    for path in paths:
        try:
            sessions = sessions_of(parse_xml(root / path))
        except CohortError as error:
            tables.exclude(path, error.code, error.message)
            continue
        if not sessions:
            continue
        read = functools.partial(outlines_in, root / path, root / series, settings.readers, settings.agreement)
        outlines = read()
        file = f"outlines/{study_id}.json"
        if outlines:
            tables.documents[file] = read
        elif any(one.tag.endswith("edgeMap") for session in sessions for one in session.iter()):
            tables.exclude(path, "outlines_not_taken", "Too few readers, or a series whose slices are not axial.")
        tables.localization += [
            Localization(study_id, "nodule", "lung_nodule", mask=file, layer=number, organ="lungs")
            for number in range(len(outlines))
        ]
        return sum(map(has_nodule, sessions))
    return None


class Luna16Settings(CohortSettings):
    """What can be chosen of LUNA16.

    Attributes:
        test_subset: the fold (0 to 9) that is the test split; the other folds are train. None leaves splits open.
    """

    test_subset: int | None = None


class Luna16(CohortReader):
    """Reads LUNA16."""

    name = "luna16"
    Settings = Luna16Settings

    def read(self, disk: Disk, settings: Luna16Settings) -> CohortTables:
        """LUNA16 in our form: scans, whether they hold a nodule, and where."""
        tables = CohortTables()
        scans = {match[1]: path for path, match in disk.named(r"([\d.]+)\.mhd")}
        if not scans:
            raise disk.nothing("subset0/SERIESUID.mhd")
        columns = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")
        nodules = disk.table("annotations.csv", columns=columns)
        for row in nodules.iter_rows(named=True):
            tables.localization.append(_nodule(row))
        with_nodule = set(nodules["seriesuid"].to_list())
        for name, path in scans.items():
            raw = [p for ending in (".raw", ".zraw") for p in (path[: -len(".mhd")] + ending,) if disk.has(p)]
            if not raw or raw[0] in disk.empty:
                tables.exclude(name, "no_raw_file", f"{path} has no .raw file beside it, or an empty one.")
                continue
            fold = re.search(r"subset(\d)", path)
            chosen = settings.test_subset
            split = None if chosen is None or fold is None else "test" if int(fold[1]) == chosen else "train"
            tables.rows.append({"study_id": name, "patient_id": name, "image": path, "modality": "ct", "split": split})
            tables.labels[name] = {"lung_nodule": int(name in with_nodule)}
        for name in sorted(with_nodule - scans.keys()):
            tables.exclude(name, "image_missing", "annotations.csv names it, and no .mhd has that name.")
        tables.facts.append(
            "Patients are not named: a few of LIDC-IDRI's have two scans. Nodules are those of 3 mm or more that three "
            "of four readers marked; world millimetres were turned from LPS to RAS."
        )
        return tables


def _nodule(row: dict[str, str | None]) -> Localization:
    try:
        x, y, z, size = (float(row[name] or "") for name in ("coordX", "coordY", "coordZ", "diameter_mm"))
    except ValueError as error:
        raise CohortError(f"annotations.csv: {row['seriesuid']} has no numbers: {error}.", code="bad_table") from error
    return Localization(
        str(row["seriesuid"]), "nodule", "lung_nodule", centre_mm=(-x, -y, z), diameter_mm=size, organ="lungs"
    )
