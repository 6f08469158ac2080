"""How an evaluation is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ctglip.config import RootSettings, Settings
from ctglip.inference.readers import Read
from ctglip.inference.scoring import Wording

ThresholdRule = Literal["validation_f1", "test_roc_corner", "test_f1"]


class CxrEvaluation(Settings):
    """What is particular to radiographs.

    Attributes:
        read: ``organs`` as the model finds them; the ``whole`` radiograph, by its head for whole radiographs (the only
            way of models that find no organs); or the radiograph's ``observations``, of models with learned queries
            (PLACE, re-implemented from its abstract): the best one answers, and retrieval still compares whole
            radiographs.
        composed: prompts a finding, composed of severity, kind and place (``evaluation/prompts``) and drawn by
            ``seed``; 0: the dictionary's prompts.
    """

    read: Read = "organs"
    composed: int = Field(default=0, ge=0)


class FiveBy200Settings(Settings):
    """The retrieval protocol ``five_by_200``.

    Attributes:
        classes: abnormalities.
        per_class: radiographs drawn of each class, by ``seed``, that show it and none of the others.
    """

    classes: tuple[str, ...] = ("atelectasis", "cardiomegaly", "consolidation", "pulmonary_edema", "pleural_effusion")
    per_class: int = Field(default=200, ge=1)


class EvaluateConfig(RootSettings):
    """One zero-shot evaluation.

    Attributes:
        seed: of the bootstrap, and of prompts and radiographs that are drawn.
        draws: bootstrap draws of patients.
        min_positives: an (organ, abnormality) with fewer positives, or fewer negatives, is not evaluated.
        unmentioned_as_negative: where labels come from findings: an organ that a report does not mention counts as
            normal; otherwise it has no label.
        controls: also evaluate what volume alone and the mask alone give.
        pictures: the report shows the answers that went best and worst with slices.
        parts: what else is done, see ``evaluation.parts``. ``retrieval``, ``prompts``, ``subgroups`` and ``map`` cost
            seconds; ``probe`` encodes the split train, ``erasure``, ``swap`` and ``truncation`` the evaluated split
            again.
        prompts: YAML file of prompts in place of the dictionary's, see ``inference.prompt_file``.
        wording: ``dictionary``: prompt ensembles; else one prompt each, see ``inference.scoring.Wording``.
        threshold: ``validation_f1``: the best F1 on the split val; chosen on the evaluated labels themselves (they
            flatter): ``test_roc_corner``, nearest to the ROC corner, as the public CT-RATE scripts do; ``test_f1``, the
            best F1, as MedKLIP's do.
        protocol: also evaluate whole studies by a public protocol: ct_rate_18, ct_rate_four_organs, fvlm_16,
            merlin_30, cxr_nih_14, cxr_rsna (see ``evaluation.parts.protocol``).
        lesions: table of lesions with their places, as ``ctglip simulate`` writes it (of radiographs: or of boxes):
            also plays the pointing game (part ``localization``, which without a table takes the store's own drawn
            findings).
        studies: file with one study id a line: evaluate these of the split alone.
        cxr: what is particular to radiographs.
        five_by_200: of the part of that name.
        ignore: columns of the label table that are no labels.
        batch: organs encoded at a time.
        threads: threads that cut crops.
        cache: folder of encoded organs; ``features`` inside the store by default.
        crops: folder in which the crops themselves are kept too, for other models that cut alike (a run keeps its own
            in ``data.cache.folder``, by default ``cache/crops`` inside the store); none: they are not kept.
        device: ``auto`` takes a GPU where there is one.
    """

    kind: Literal["evaluate"] = "evaluate"
    seed: int = 0
    draws: int = Field(default=1000, ge=10)
    min_positives: int = Field(default=3, ge=1)
    unmentioned_as_negative: bool = False
    controls: bool = True
    pictures: bool = True
    parts: tuple[str, ...] = ("retrieval", "prompts", "subgroups", "map")
    prompts: str | None = None
    wording: Wording = "dictionary"
    threshold: ThresholdRule = "validation_f1"
    protocol: str | None = None
    lesions: str | None = None
    studies: str | None = None
    cxr: CxrEvaluation = CxrEvaluation()
    five_by_200: FiveBy200Settings = FiveBy200Settings()
    ignore: tuple[str, ...] = ()
    batch: int = Field(default=64, ge=1)
    threads: int = Field(default=2, ge=1)
    cache: str | None = None
    crops: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return {} if "five_by_200" in self.parts else {"five_by_200": "the part five_by_200 is not asked for"}
