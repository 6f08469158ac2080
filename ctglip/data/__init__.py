"""Samples of a store: torch datasets, each with a ``collate`` for a ``DataLoader``, and what they are made of.

Which dataset: ``OrganDataset`` for crops of organs; ``StudyDataset`` for whole scans and chest radiographs, with a text
of each organ, one text, or their report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.data.augment import AugmentSettings as AugmentSettings
    from ctglip.data.collate import collate_organs as collate_organs
    from ctglip.data.collate import collate_reports as collate_reports
    from ctglip.data.collate import collate_studies as collate_studies
    from ctglip.data.crops import CropSettings as CropSettings
    from ctglip.data.crops import OrganCrop as OrganCrop
    from ctglip.data.crops import cut_crop as cut_crop
    from ctglip.data.cxr import CxrDataSettings as CxrDataSettings
    from ctglip.data.dataset import TextDataset as TextDataset
    from ctglip.data.organs import CropDataSettings as CropDataSettings
    from ctglip.data.organs import OrganDataset as OrganDataset
    from ctglip.data.rendering import CropStack as CropStack
    from ctglip.data.samples import OrganSample as OrganSample
    from ctglip.data.samples import StudySample as StudySample
    from ctglip.data.sampling import BalancedSampler as BalancedSampler
    from ctglip.data.sampling import SamplingSettings as SamplingSettings
    from ctglip.data.scans import ScanDataSettings as ScanDataSettings
    from ctglip.data.scans import ScanSettings as ScanSettings
    from ctglip.data.scans import cut_scan as cut_scan
    from ctglip.data.scans import render_scans as render_scans
    from ctglip.data.studies import StudyDataset as StudyDataset
    from ctglip.data.tokens import TokenDataSettings as TokenDataSettings

__getattr__, __dir__ = public_names(__name__)
