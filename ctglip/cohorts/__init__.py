"""Public data sets as they lie on a disk: one reader each, which hands on a cohort table, labels, organ text, and what
it left out and why. Nothing is downloaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.cohorts.base import Card as Card
    from ctglip.cohorts.base import CohortReader as CohortReader
    from ctglip.cohorts.base import CohortSettings as CohortSettings
    from ctglip.cohorts.base import CohortTables as CohortTables
    from ctglip.cohorts.column_map import CohortMap as CohortMap
    from ctglip.cohorts.disk import Disk as Disk
    from ctglip.cohorts.registry import cohort_names as cohort_names
    from ctglip.cohorts.registry import cohort_reader as cohort_reader
    from ctglip.cohorts.writing import CohortSummary as CohortSummary
    from ctglip.cohorts.writing import read_cohort_tables as read_cohort_tables
    from ctglip.cohorts.writing import write_cohort as write_cohort

__getattr__, __dir__ = public_names(__name__)
