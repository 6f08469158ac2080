"""The settings of ``ctglip preprocess``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ctglip.config import Settings
from ctglip.ct.recipe import CtRecipe
from ctglip.cxr.recipe import CxrRecipe
from ctglip.store.splits import SplitSettings
from ctglip.types import FindingsFrom


class PreprocessConfig(Settings):
    """Everything that decides how a cohort becomes a store.

    Attributes:
        ct: what a scan is turned into. A change of it makes every study anew.
        cxr: what a chest radiograph is turned into; where it is given the cohort is one of radiographs, and ``ct`` is
            refused.
        splits: how patients without a split of their own are divided.
        findings_from: which findings of an organ count where given ones (the cohort's ``organ_text``) and the parser's
            speak of it, see ``ctglip.store.findings.counting``: ``given``, ``parser`` or ``both``. All of them are
            stored, so that a change holds at once and makes no study anew. Not part of the recipe's hash.
        error_checks: ``refuse`` makes a failure of a study with a quality check of severity ``error`` (its numbers are
            not what they claim to be), ``keep`` stores it with its checks. Not part of the recipe's hash.
        study_timeout_s: a study that takes longer is given up.
        study_memory_gb: a study that needs more memory than this is given up. TotalSegmentator runs in a process of its
            own that this does not bind, see ``ct.segmentation.memory_gb``.
        worker_retries: how often a study is tried again after its worker or node died under it.
    """

    kind: Literal["preprocess"] = "preprocess"
    ct: CtRecipe = CtRecipe()
    cxr: CxrRecipe | None = None
    splits: SplitSettings = SplitSettings()
    findings_from: FindingsFrom = "given"
    error_checks: Literal["refuse", "keep"] = "refuse"
    study_timeout_s: float = Field(default=900.0, gt=0)
    study_memory_gb: float = Field(default=4.0, gt=0)
    worker_retries: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _one_recipe(self) -> Self:
        if self.cxr is not None and "ct" in self.model_fields_set:
            raise ValueError("a cohort is one of CT scans (ct) or of radiographs (cxr); both are set")
        return self

    @property
    def recipe(self) -> CtRecipe | CxrRecipe:
        """What the cohort's images are turned into."""
        return self.ct if self.cxr is None else self.cxr
