"""CT scans: reading files, checking that they hold Hounsfield units, organ masks of many kinds, and one way to lay all
of them on a model's grid (``ctglip.ct.standardize``). Knows no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.ct.doctor import ScanSummary as ScanSummary
    from ctglip.ct.doctor import examine as examine
    from ctglip.ct.io import read_scan as read_scan
    from ctglip.ct.masks import read_masks as read_masks
    from ctglip.ct.organs import organ_table as organ_table
    from ctglip.ct.quality import check_scan as check_scan
    from ctglip.ct.quality import refuse_errors as refuse_errors
    from ctglip.ct.recipe import CtRecipe as CtRecipe
    from ctglip.ct.segmentation import SegmentationSettings as SegmentationSettings
    from ctglip.ct.segmentation import segment as segment

__getattr__, __dir__ = public_names(__name__)
