"""The store on disk, where preprocessing ends and learning begins: a zarr group for each study, parquet tables over all
of them. ``Store.open(path)`` reads one. Knows no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.store.export import export_study as export_study
    from ctglip.store.format import StoreInfo as StoreInfo
    from ctglip.store.splits import SplitSettings as SplitSettings
    from ctglip.store.splits import assign_splits as assign_splits
    from ctglip.store.study import StudyReader as StudyReader
    from ctglip.store.study import StudyRecord as StudyRecord
    from ctglip.store.study import write_study as write_study
    from ctglip.store.summary import summarize as summarize
    from ctglip.store.tables import Store as Store
    from ctglip.store.tables import compact as compact
    from ctglip.store.tables import create_store as create_store

__getattr__, __dir__ = public_names(__name__)
