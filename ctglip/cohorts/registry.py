"""The readers of public data sets by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from ctglip.cohorts.abdomen_atlas import AbdomenAtlas, RadGpt
from ctglip.cohorts.amos_mm import AmosMm
from ctglip.cohorts.base import CohortReader
from ctglip.cohorts.column_map import ColumnMapReader
from ctglip.cohorts.ct_rate import CtRate
from ctglip.cohorts.dicom_export import DicomExport
from ctglip.cohorts.drawn_cxr import ObjectCxr, SiimPneumothorax, Tbx11k, VinDrCxr
from ctglip.cohorts.inspect_pe import Inspect
from ctglip.cohorts.jsrt import Jsrt
from ctglip.cohorts.lung_nodules import Lidc, Luna16
from ctglip.cohorts.m3d_cap import M3dCap
from ctglip.cohorts.merlin import Merlin
from ctglip.cohorts.mimic_cxr import MimicCxr, MsCxr
from ctglip.cohorts.nlst import Nlst
from ctglip.cohorts.on_ct_rate import RadGenome, RexGrounding
from ctglip.cohorts.rad_chestct import RadChestCt
from ctglip.cohorts.rsna_pe import RsnaPe
from ctglip.cohorts.rsna_trauma import RsnaTrauma
from ctglip.cohorts.totalsegmentator import TotalSegmentatorData
from ctglip.errors import CohortError
from ctglip.resources import resource

READERS: dict[str, type[CohortReader]] = {
    reader.name: reader
    for reader in (
        CtRate, RadGenome, RexGrounding, Merlin, RadChestCt, Inspect, AbdomenAtlas, RadGpt, AmosMm, M3dCap, RsnaPe,
        RsnaTrauma, TotalSegmentatorData, Lidc, Luna16, Nlst, MimicCxr,
        MsCxr, VinDrCxr, ObjectCxr, SiimPneumothorax, Jsrt, Tbx11k, DicomExport,
    )
}  # fmt: skip


def cohort_names() -> list[str]:
    """The names that ``cohort_reader`` takes."""
    return sorted({*READERS, *(path.stem for path in resource("configs", "cohorts").glob("*.yaml"))})


def cohort_reader(name: str) -> CohortReader:
    """The reader of a data set.

    Args:
        name: of a reader or of a shipped column map, or the path of a YAML file that holds a map.

    Raises:
        CohortError: ``unknown_cohort``, with the names nearest to it.
    """
    if name in READERS:
        return READERS[name]()
    if name in cohort_names():
        return ColumnMapReader(f"cohorts/{name}")
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return ColumnMapReader(name)
    near = difflib.get_close_matches(name, cohort_names(), n=3, cutoff=0.4)
    raise CohortError(
        f"There is no reader {name!r}.",
        code="unknown_cohort",
        fix=f"Nearest names: {', '.join(near or cohort_names())}; ctglip cohort --list shows all.",
    )
