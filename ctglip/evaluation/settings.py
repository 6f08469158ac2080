"""How an evaluation is done."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ctglip.config import Settings
from ctglip.inference.scoring import Wording

ThresholdRule = Literal["validation_f1", "test_roc_corner"]


class EvaluateConfig(Settings):
    """One zero-shot evaluation.

    Attributes:
        seed: of the bootstrap.
        draws: bootstrap draws of patients.
        min_positives: an (organ, abnormality) with fewer positives, or fewer negatives, is not judged.
        silence_is_normal: where labels come from findings: an organ that a report never speaks of counts as normal;
            otherwise it is not judged.
        controls: also judge what volume alone and the mask alone give.
        pictures: the report shows the answers that went best and worst with slices.
        parts: what else is done, see ``evaluation.parts``. ``retrieval``, ``prompts``, ``subgroups`` and ``map`` cost
            seconds; ``probe`` encodes the split train, ``erasure``, ``swap`` and ``truncation`` the judged split again.
        prompts: YAML file of prompts in place of the dictionary's, see ``inference.prompt_file``.
        wording: ``dictionary``: prompt ensembles; else one prompt each, see ``inference.scoring.Wording``.
        threshold: ``validation_f1``: the best F1 on the split val; ``test_roc_corner``: the threshold nearest to the
            ROC corner on the judged labels themselves, as the public CT-RATE scripts choose it (it flatters).
        protocol: also judge whole studies by a public protocol: ct_rate_18, ct_rate_four_organs, merlin_30 (see
            ``evaluation.protocol``).
        lesions: table of lesions with their places, as ``ctglip simulate`` writes it: also play the pointing game.
        batch: organs encoded at a time.
        threads: threads that cut crops.
        cache: folder of encoded organs; ``features`` inside the store by default.
        device: ``auto`` takes a GPU where there is one.
    """

    kind: Literal["evaluate"] = "evaluate"
    seed: int = 0
    draws: int = Field(default=1000, ge=10)
    min_positives: int = Field(default=3, ge=1)
    silence_is_normal: bool = False
    controls: bool = True
    pictures: bool = True
    parts: tuple[str, ...] = ("retrieval", "prompts", "subgroups", "map")
    prompts: str | None = None
    wording: Wording = "dictionary"
    threshold: ThresholdRule = "validation_f1"
    protocol: str | None = None
    lesions: str | None = None
    batch: int = Field(default=64, ge=1)
    threads: int = Field(default=2, ge=1)
    cache: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
