"""The readers of public data sets by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from ctglip.cohorts.base import CohortReader
from ctglip.cohorts.column_map import ColumnMapReader
from ctglip.cohorts.ct_rate import CtRate
from ctglip.errors import CohortError
from ctglip.resources import resource

READERS: dict[str, type[CohortReader]] = {reader.name: reader for reader in (CtRate,)}


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
