"""What all kinds of training data have: which organs are learned from, and how their texts are drawn."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ctglip.config import Settings
from ctglip.types import ModalityName

WITHOUT_TEXTS = (
    "Give the cohort reports; with labels alone fine-tune a model that was pretrained on others: "
    "ctglip finetune RUN STORE OUT --labels FILE."
)
"""What to do with a store that there is nothing to read in."""


class DataSettings(Settings):
    """Which organs are learned from, and what is said of them.

    Attributes:
        name: the kind of images: ``crops`` of organs, whole ``scans``, or radiographs (``cxr``).
        organs: names; empty takes every organ that has an abnormality in the dictionary and is in the store.
        unmentioned_as_negative: an organ that a report does not mention is normal; else it teaches anatomy alone.
        dictionary_wording: how often a finding is worded as in the dictionary rather than as in its report.
        report_wording: how often a negative is worded as in another study's report rather than as in the dictionary.
        negatives: dictionary negatives for each organ of a batch, for objectives that compare with such.
        threads: threads that read studies and cut crops.
        permute_texts: a control that must learn nothing: reports are exchanged between studies, organ by organ.
    """

    modality: ClassVar[ModalityName] = "ct"
    spatial_dims: ClassVar[int] = 3
    knows_size: ClassVar[bool] = True

    name: str
    organs: tuple[str, ...] = ()
    unmentioned_as_negative: bool = False
    dictionary_wording: float = Field(default=0.5, ge=0, le=1)
    report_wording: float = Field(default=0.5, ge=0, le=1)
    negatives: int = Field(default=8, ge=0)
    threads: int = Field(default=2, ge=1)
    permute_texts: bool = False

    @property
    def channels(self) -> int:
        """Channels of an image that the encoder reads."""
        return 1
