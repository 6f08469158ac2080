"""The volumes of CT-RATE on a disk: their names, and which of the two versions they are."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from ctglip.cohorts.base import CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk
from ctglip.ct.nifti import read_head
from ctglip.errors import CohortError

VOLUME = r"((train|valid)_\d+_[a-z]+)_(\d+)\.nii(?:\.gz)?"
_ELSEWHERE = re.compile(
    r"(?:^|/)(?:ts_seg|seg_|[^/]*mask|[^/]*_preprocessed|segmentations|merged_|resized_|processed_)"
)
_HEADS = 24
Criterion = Literal[
    "thinnest_slices", "soft_kernel", "sharp_kernel", "most_slices", "finest_pixels", "first_reconstruction"
]


class CtRateSettings(CohortSettings):
    """What can be chosen of CT-RATE.

    Attributes:
        version: of the volumes; ``auto`` takes 2 where there is any of it.
        reconstructions: ``one`` a study, of those that are on the disk and not excluded; ``all``: each is a study.
        choose: which one: by the first criterion that tells them apart. A soft kernel has the lowest number in its
            name (Br40 before Br60, B30 before B70), or is named so.
        valid_as: the split of the official validation studies; published figures are on them.
        repeated_findings: studies of one split whose findings are word for word those of an earlier one are kept, or
            excluded.
        headers: how many files are looked into to see which version they are; 0 for none.
    """

    version: Literal["auto", "1", "2"] = "auto"
    reconstructions: Literal["one", "all"] = "one"
    choose: tuple[Criterion, ...] = ("thinnest_slices", "soft_kernel", "most_slices", "first_reconstruction")
    valid_as: Literal["val", "test"] = "test"
    repeated_findings: Literal["keep", "exclude"] = "keep"
    headers: int = _HEADS


@dataclass(frozen=True)
class CtRateVolume:
    """One reconstruction on the disk."""

    name: str
    path: str
    study: str
    split: str
    number: int

    @property
    def patient(self) -> str:
        """The first two tokens of its name."""
        return self.study.rsplit("_", 1)[0]


def find_volumes(disk: Disk, settings: CtRateSettings, tables: CohortTables) -> tuple[list[CtRateVolume], int]:
    """The volumes of one version, and which it is.

    Raises:
        CohortError: ``no_images``, ``mixed_versions``.
    """
    versions: dict[int | None, dict[str, CtRateVolume]] = {1: {}, 2: {}, None: {}}
    for path, match in disk.named(VOLUME):
        if not _ELSEWHERE.search(path):
            name = PurePosixPath(path).name.split(".")[0]
            volume = CtRateVolume(name, path, match[1], match[2], int(match[3]))
            versions[_version_of(path)].setdefault(name, volume)
    counts = {version: len(found) for version, found in versions.items()}
    version = int(settings.version) if settings.version != "auto" else 2 if versions[2] else 1
    chosen = versions[version] or (versions[None] if not versions[3 - version] else {})
    if not chosen:
        expected = f"dataset/train{'_fixed' if version == 2 else ''}/train_1/train_1_a/train_1_a_1.nii.gz"
        raise CohortError(
            f"{disk.root} has no volume of version {version} (expected {expected}); found {counts[1]} of version 1, "
            f"{counts[2]} of version 2.",
            code="no_images",
            fix="Give the folder that holds dataset/, or set version.",
        )
    if chosen is versions[None]:
        version = _version_by_headers(disk, list(chosen.values()), settings, tables)
    elif counts[3 - version]:
        tables.facts.append(f"{counts[3 - version]} volumes of version {3 - version} lie beside and were left alone.")
    if chosen is not versions[None]:
        _check_version(disk, list(chosen.values()), version, settings.headers, tables)
    how = (
        "numbers are HU as stored, headers hold; nothing is rescaled" if version == 2
        else "slope, intercept, spacing, origin and axes come from the metadata table"
    )  # fmt: skip
    tables.facts.append(f"{len(chosen)} volumes of version {version}: {how}.")
    return list(chosen.values()), version


def _version_of(path: str) -> int | None:
    """By the folders above: ``train_fixed`` or ``train_fix`` is 2, ``train`` 1."""
    folders = PurePosixPath(path).parts[:-1]
    if any(re.fullmatch(r"(?:train|valid)_(?:fixed|fix)", part) for part in folders):
        return 2
    return 1 if any(part in ("train", "valid") for part in folders) else None


def _sampled(volumes: list[CtRateVolume], count: int) -> list[CtRateVolume]:
    return volumes[:: max(1, math.ceil(len(volumes) / count))] if count else []


def _check_version(disk: Disk, volumes: list[CtRateVolume], version: int, count: int, tables: CohortTables) -> None:
    heads = [(one, read_head(disk.root / one.path)) for one in _sampled(volumes, count)]
    read = [(one, head) for one, head in heads if head is not None]
    wrong = [(one, head) for one, head in read if head.blank != (version == 1)]
    if wrong:
        one, head = wrong[0]
        edges = " x ".join(f"{edge:.3g}" for edge in head.spacing_mm)
        raise CohortError(
            f"{disk.root / one.path}: its folder says version {version}, whose header is "
            f"{'blank' if version == 1 else 'filled in'}; found {'a blank one' if head.blank else 'a filled-in one'} "
            f"({edges} mm), as in {len(wrong)} of {len(read)} files that were looked into.",
            code="mixed_versions",
            fix="Download the folder again, or keep the two versions apart.",
        )
    tables.facts.append(f"The headers of {len(read)} of {len(heads)} files looked into are those of version {version}.")


def _version_by_headers(disk: Disk, volumes: list[CtRateVolume], settings: CtRateSettings, tables: CohortTables) -> int:
    """The version of volumes whose folders do not say it."""
    if settings.version != "auto":
        version = int(settings.version)
        _check_version(disk, volumes, version, settings.headers, tables)
        return version
    heads = [read_head(disk.root / one.path) for one in _sampled(volumes, max(1, settings.headers))]
    blank = {head.blank for head in heads if head is not None}
    if len(blank) != 1:
        raise CohortError(
            f"{disk.root}: no folder is called train, valid, train_fixed or valid_fixed, and the headers of "
            f"{len(heads)} files {'are of both versions' if blank else 'cannot be read'}.",
            code="mixed_versions",
            fix="Set version to 1 or 2, or give the folders their names back.",
        )
    version = 1 if blank.pop() else 2
    tables.facts.append(f"No folder says which version this is; by the headers of {len(heads)} files it is {version}.")
    return version
